"""What a zoo model chose on its golden prompt: experts, and positions of sparse attention.

Usage: python choices.py FOLDER   (as make_zoo.py wrote it; PyTorch, transformers 5.17)
Writes FOLDER/golden_choices.safetensors, for every layer N that chooses:
  experts.N [T, k] int32 ascending and experts_margin.N [T] float32,
  positions.N [T, K] int32 ascending, then -1, and positions_margin.N [T].
A margin is the distance of the last that was chosen to the first that was not, over the range of the row's scores; 1 where all were.
"""
import sys
import torch
from safetensors.torch import load_file, save_file
import transformers as tf

folder = sys.argv[1]
torch.set_grad_enabled(False)
torch.set_num_threads(2)
config = tf.AutoConfig.from_pretrained(folder)
config._attn_implementation = 'eager'
model = getattr(tf, config.architectures[0]).from_pretrained(folder, config=config, dtype=torch.float32).eval()
ids = load_file(f'{folder}/golden.safetensors')['input_ids']
T = len(ids)
out = {}


def margins(scores, k):  # scores [T, n], -inf where there is no choice
    result = torch.ones(len(scores))
    for t, row in enumerate(scores):
        row = row[row > float('-inf')]
        if len(row) > k:
            best = row.sort(descending=True).values
            result[t] = (best[k - 1] - best[k]) / (row.max() - row.min()).clamp_min(1e-30)
    return result


def watch_router(n, router):
    def hook(module, args, result):
        x = args[0].reshape(T, -1).float()
        scores = torch.sigmoid(x @ module.weight.float().T) + module.e_score_correction_bias
        groups, kept = config.n_group, config.topk_group
        if groups > 1:
            strength = scores.view(T, groups, -1).topk(2, -1).values.sum(-1)
            # A margin of the groups counts as one of the experts.
            out[f'groups_margin.{n}'] = margins(strength, kept)
            mask = torch.zeros_like(strength).scatter_(1, strength.topk(kept, -1).indices, 1.0)
            scores = scores.masked_fill(mask.repeat_interleave(scores.shape[1] // groups, 1) == 0, float('-inf'))
        k = config.num_experts_per_tok
        out[f'experts.{n}'] = scores.topk(k, -1).indices.sort(-1).values.int()
        out[f'experts_margin.{n}'] = torch.minimum(margins(scores, k), out.pop(f'groups_margin.{n}', torch.ones(T)))
    router.register_forward_hook(hook)


def watch_softmax_router(n, router):
    def hook(module, args, result):
        # Qwen's routers give logits first, Gemma's probabilities; both the chosen experts last.
        scores = result[0].reshape(T, -1).float()
        if hasattr(module, 'weight'): scores = scores.softmax(-1)
        chosen = result[2].reshape(T, -1)
        out[f'experts.{n}'], out[f'experts_margin.{n}'] = chosen.sort(-1).values.int(), margins(scores, chosen.shape[1])
    router.register_forward_hook(hook)


def watch_indexer(n, indexer):
    original = torch.Tensor.topk
    def hook(module, args, kwargs, result):
        q_resid, hidden = kwargs.get('q_resid', args[1] if len(args) > 1 else None), kwargs.get('hidden_states', args[0] if args else None)
        seen = []
        torch.Tensor.topk = lambda self, *a, **k: (seen.append(self), original(self, *a, **k))[1]
        try:
            again = type(module).forward(module, *args, **{**kwargs, 'past_key_values': None})
        finally:
            torch.Tensor.topk = original
        scores = seen[0].reshape(T, T).clone()
        scores[scores < -1e30] = float('-inf')
        k = min(config.index_topk, T)
        chosen = torch.full((T, config.index_topk), -1, dtype=torch.int32)
        for t in range(T):
            own = sorted(j for j in again[0, t].tolist() if j <= t)
            chosen[t, :len(own)] = torch.tensor(own, dtype=torch.int32)
        out[f'positions.{n}'], out[f'positions_margin.{n}'] = chosen, margins(scores, k)
    indexer.register_forward_hook(hook, with_kwargs=True)


for n, layer in enumerate(getattr(model.model, 'language_model', model.model).layers):
    gate = getattr(layer, 'router', None) or getattr(layer.mlp, 'gate', None)
    if gate is not None: (watch_router if hasattr(gate, 'e_score_correction_bias') else watch_softmax_router)(n, gate)
    indexer = getattr(getattr(layer, 'self_attn', None), 'indexer', None)
    if indexer is not None: watch_indexer(n, indexer)
logits = model(input_ids=ids[None].long(), use_cache=False).logits[0]
print('logits as in the golden within', (logits - load_file(f'{folder}/golden.safetensors')['logits']).abs().max().item())
print({k: (tuple(v.shape), v.min().item()) for k, v in out.items() if 'margin' in k})
save_file({k: v.contiguous() for k, v in out.items()}, f'{folder}/golden_choices.safetensors')
