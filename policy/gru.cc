#include "policy/gru.h"

#include <ATen/autocast_mode.h>

namespace sibyl {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a pass over T steps leaves behind; gates lie side by side in the order reset, update, candidate.
struct Trace {
  Tensor before;      // [T, B, H] state before each step, after resets
  Tensor from_state;  // [T, B, 3H] the state's part of each gate
  Tensor gates;       // [T, B, 2H] reset and update, after the sigmoid
  Tensor candidate;   // [T, B, H]
  Tensor after;       // [T, B, H] state after each step
};

// Seven kernels a step, all into memory that is allocated once. Where `weight` is in a lower precision than the states,
// its products are.
Trace Unroll(const Tensor& from_input, const Tensor& keep, const Tensor& state, const Tensor& weight,
             const Tensor& bias) {
  const int64_t T = from_input.size(0), B = from_input.size(1), H = state.size(1);
  const auto options = from_input.options();
  Trace trace = {torch::empty({T, B, H}, options), torch::empty({T, B, 3 * H}, options),
                 torch::empty({T, B, 2 * H}, options), torch::empty({T, B, H}, options),
                 torch::empty({T, B, H}, options)};
  const std::vector<Tensor> input_gates = from_input.slice(2, 0, 2 * H).unbind(0);
  const std::vector<Tensor> input_candidate = from_input.slice(2, 2 * H).unbind(0);
  const std::vector<Tensor> kept = keep.unbind(0);
  const Tensor transposed = weight.t();
  Tensor h = state;
  for (int64_t t = 0; t < T; ++t) {
    Tensor before = trace.before[t], from_state = trace.from_state[t], gates = trace.gates[t];
    Tensor candidate = trace.candidate[t], after = trace.after[t];
    at::mul_out(before, h, kept[t]);
    if (weight.scalar_type() == before.scalar_type()) {
      at::addmm_out(from_state, bias, before, transposed);
    } else {
      at::add_out(from_state, at::mm(before.to(weight.scalar_type()), transposed), bias);
    }
    at::add_out(gates, input_gates[t], from_state.slice(1, 0, 2 * H)).sigmoid_();
    at::addcmul_out(candidate, input_candidate[t], gates.slice(1, 0, H), from_state.slice(1, 2 * H)).tanh_();
    at::lerp_out(after, candidate, before, gates.slice(1, H));
    h = after;
  }
  return trace;
}

// The derivatives by hand: what depends on the forward pass alone is computed for all steps at once, and so are the
// weights' gradients, which autograd would add up step by step.
class GruFunction : public torch::autograd::Function<GruFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& from_input, const Tensor& keep, const Tensor& state,
                        const Tensor& weight, const Tensor& bias) {
    const Trace trace = Unroll(from_input, keep, state, weight, bias);
    context->save_for_backward({keep, weight, trace.before, trace.from_state, trace.gates, trace.candidate});
    return trace.after;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &keep = saved[0], &weight = saved[1], &before = saved[2], &from_state = saved[3], &gates = saved[4],
                 &candidate = saved[5];
    const int64_t T = before.size(0), B = before.size(1), H = before.size(2);
    const Tensor reset = gates.slice(2, 0, H), update = gates.slice(2, H);
    // From the state after a step to the arguments of update and candidate, and from candidate's to reset's.
    const Tensor to_update = (before - candidate) * update * (1 - update);
    const Tensor to_candidate = (1 - update) * (1 - candidate.square());
    const Tensor to_reset = from_state.slice(2, 2 * H) * reset * (1 - reset);

    Tensor by_gates = torch::empty_like(from_state);  // with respect to from_state
    Tensor by_candidate = torch::empty_like(candidate);
    const auto precision = weight.scalar_type();
    Tensor later;  // with respect to the state after step t, from the steps after it
    for (int64_t t = T - 1; t >= 0; --t) {
      const Tensor by_state = later.defined() ? gradients[0][t] + later : gradients[0][t];
      Tensor gate = by_gates[t], argument = by_candidate[t];
      Tensor of_reset = gate.slice(1, 0, H), of_update = gate.slice(1, H, 2 * H), of_candidate = gate.slice(1, 2 * H);
      at::mul_out(of_update, by_state, to_update[t]);
      at::mul_out(argument, by_state, to_candidate[t]);
      at::mul_out(of_reset, argument, to_reset[t]);
      at::mul_out(of_candidate, argument, reset[t]);
      later = (by_state * update[t]).add_(gate.to(precision).mm(weight)).mul_(keep[t]);
    }
    const Tensor rows = by_gates.view({T * B, 3 * H});
    return {torch::cat({by_gates.slice(2, 0, 2 * H), by_candidate}, 2), Tensor(), later,
            rows.to(precision).t().mm(before.view({T * B, H}).to(precision)), rows.sum(0)};
  }
};

}  // namespace

GruImpl::GruImpl(int64_t input_size, int64_t state_size) {
  input_gates_ = register_module("input_gates", torch::nn::Linear(input_size, 3 * state_size));
  state_gates_ = register_module("state_gates", torch::nn::Linear(state_size, 3 * state_size));
  torch::NoGradGuard no_grad;
  for (auto& layer : {input_gates_, state_gates_}) {
    for (Tensor& gate : layer->weight.chunk(3)) torch::nn::init::orthogonal_(gate);
    layer->bias.zero_();
  }
}

Tensor GruImpl::forward(const Tensor& input, const Tensor& first, const Tensor& state) {
  const Tensor keep = first.logical_not().to(state.scalar_type()).unsqueeze(-1);
  const Tensor from_input = input_gates_(input).to(state.scalar_type());
  const auto device = state.device().type();
  const Tensor weight = at::autocast::is_autocast_enabled(device)
                            ? state_gates_->weight.to(at::autocast::get_autocast_dtype(device))
                            : state_gates_->weight;
  if (!torch::GradMode::is_enabled()) return Unroll(from_input, keep, state, weight, state_gates_->bias).after;
  return GruFunction::apply(from_input, keep, state, weight, state_gates_->bias);
}

}  // namespace sibyl
