#include "models/model.h"

#include "base/errors.h"

namespace decant {

LogitsAndHidden Model::forward_and_hidden(Graph&) const {
  throw InternalError("[model] {}: expected a draft layer that is loaded, got none",
                      spec().model_type);
}

LogitsAndHidden Model::draft(Graph& graph, Value) const { return Model::forward_and_hidden(graph); }

}  // namespace decant
