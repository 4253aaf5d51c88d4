#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when the expression is not OK.
#define SIBYL_RETURN_IF_ERROR(expr)                                                  \
  do {                                                                               \
    if (absl::Status sibyl_status = (expr); !sibyl_status.ok()) return sibyl_status; \
  } while (false)

// SIBYL_ASSIGN_OR_RETURN(auto x, MakeX()): assigns the value, or returns the error.
#define SIBYL_ASSIGN_OR_RETURN(lhs, expr) SIBYL_ASSIGN_OR_RETURN_(SIBYL_CONCAT_(sibyl_or_, __LINE__), lhs, expr)
#define SIBYL_ASSIGN_OR_RETURN_(temporary, lhs, expr)        \
  auto temporary = (expr);                                   \
  if (!temporary.ok()) return std::move(temporary).status(); \
  lhs = std::move(temporary).value()
#define SIBYL_CONCAT_(a, b) SIBYL_CONCAT2_(a, b)
#define SIBYL_CONCAT2_(a, b) a##b
