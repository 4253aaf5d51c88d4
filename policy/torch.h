#pragma once

// What Sibyl uses of LibTorch. Include this header, not <torch/torch.h>: that one also compiles data loaders, every
// module and every optimizer, which takes half as long again. The headers here are precompiled (cmake/LibTorch.cmake).
#include <torch/autograd.h>
#include <torch/nn/init.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/types.h>
