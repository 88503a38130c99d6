#pragma once

#include "chat/jinja_ast.h"
#include "chat/jinja_eval.h"
#include "chat/jinja_value.h"

namespace decant::jinja {

// Python's operators over Values. All fail with Failure (TypeError, ...) as Python would.

bool truthy(const Value& value);
bool equal(Interp& interp, const Value& a, const Value& b);
/// a < b
bool less(Interp& interp, const Value& a, const Value& b);
bool compare(Interp& interp, Op op, const Value& a, const Value& b);
bool contains(Interp& interp, const Value& container, const Value& item);
/// Python's `is`.
bool same(const Value& a, const Value& b);
Value binary(Interp& interp, Op op, const Value& a, const Value& b);
Value negate(const Value& value);
Value positive(const Value& value);
void require_hashable(Interp& interp, const Value& key);

/// The environment's getattr: attribute first, then item, then undefined.
Value get_attribute(Interp& interp, const Value& object, const Value& name);
/// The environment's getitem: item first, then attribute, then undefined.
Value get_item(Interp& interp, const Value& object, const Value& key);
Value get_slice(Interp& interp, const Value& object, const Value& start, const Value& stop,
                const Value& step);
/// The method or attribute `name` of a built-in type; false if there is none.
bool find_attribute(Interp& interp, const Value& object, std::string_view name, Value& out);

/// Fails if the value is undefined, as most operations on one do.
void require_defined(const Value& value);
/// The integer in an argument; TypeError naming `what` otherwise.
int64_t require_int(const Value& value, const char* what);
const Str& require_str(const Value& value, const char* what);

/// An int or float, or an integer literal of more than 64 bits.
bool is_number(const Value& value);
/// OverflowError: the result has more than 64 bits.
[[noreturn]] void overflow();
/// TypeError: operands of these types have no such operator.
[[noreturn]] void bad_operands(Op op, const Value& a, const Value& b);

Value concat_strings(Interp& interp, const Value& a, const Value& b);

}  // namespace decant::jinja
