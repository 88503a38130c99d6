"""Tiny random checkpoints with a multi-token-prediction layer, and float32 outputs of that layer.

Usage: python mtp.py OUT_DIR SEED [family ...]
transformers loads the models without these layers, so the layer is put together here from its own decoder layer classes and
the published definition (DeepSeek-V3 report, section 2.2; vLLM, qwen3_next_mtp and glm4_moe_mtp):

  u_t = joint(concat(norm_e(embed(token_{t+1})), norm_h(h_t)));  y_t = layer(u_0 .. u_t) at position t
  logits for token t+2 = head(norm(y_t))

h_t is the main model's hidden state after its final norm. A chained step takes the draft's own state in h's place: after the
norm for Qwen, before it for GLM.

Each folder holds config.json, model.safetensors (bfloat16) and golden.safetensors:
  input_ids [T], logits [T, V], hidden [T, H]      of the main model
  next_id [1]                                      what follows the prompt
  draft_logits [T, V], draft_hidden [T, H]         rows t = 0 .. T-1
  chain_ids [K], chain_logits [K, V]               K steps on the draft's own states
<family>_converted holds the same weights as a conversion to MLX spells them: one added to the norms, the convolution's axis
moved, other names.
"""
import json, os, sys, zlib, math
import torch, transformers as tf
from safetensors.torch import save_file, load_file
from transformers.masking_utils import create_causal_mask
from transformers.models.glm4_moe import modeling_glm4_moe as glm4
from transformers.models.glm4_moe_lite import modeling_glm4_moe_lite as lite
from transformers.models.glm_moe_dsa import modeling_glm_moe_dsa as dsa
from transformers.models.qwen3_5 import modeling_qwen3_5 as q35
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as q35moe

assert tf.__version__ == '5.17.0', tf.__version__
OUT, SEED, ONLY = sys.argv[1], int(sys.argv[2]), set(sys.argv[3:])
torch.set_grad_enabled(False)
torch.set_num_threads(2)
V, H, T, CHAIN = 320, 64, 40, 3
BASE = dict(vocab_size=V, hidden_size=H, num_attention_heads=4, pad_token_id=0, bos_token_id=2, eos_token_id=1)


def fill(module, name, keep=()):
    """Weights about 1/sqrt(fan in), vectors around what they were made as, all of them bfloat16 values."""
    g = torch.Generator().manual_seed(SEED * 1000003 + zlib.crc32(name.encode()))
    tensors = list(module.named_parameters()) + [(n, b) for n, b in module.named_buffers() if 'e_score_correction' in n]
    for n, p in tensors:
        if n in keep: continue
        if p.ndim >= 2:
            scale = 0.25 if 'embed' in n else 0.5 if 'conv1d' in n else 1 / math.sqrt(p.shape[-1])
            p.copy_(torch.randn(p.shape, generator=g) * scale)
        else:
            p.add_(torch.randn(p.shape, generator=g) * 0.15)
        p.copy_(p.to(torch.bfloat16).float())


def ids_for(name, n):
    g = torch.Generator().manual_seed(SEED * 7919 + zlib.crc32(name.encode()))
    return torch.randint(8, V, (n,), generator=g)


class Draft(torch.nn.Module):
    """One MTP layer. `names` are those of the two input norms, the joint projection and the output norm."""
    def __init__(self, config, layer, norm, names, chain_after_norm):
        super().__init__()
        self.names, self.chain_after_norm = names, chain_after_norm
        e, h, joint, out = names
        self.parts = torch.nn.ModuleDict({
            'e': norm(H, eps=config.rms_norm_eps), 'h': norm(H, eps=config.rms_norm_eps),
            'joint': torch.nn.Linear(2 * H, H, bias=False), 'out': norm(H, eps=config.rms_norm_eps)})
        self.layer, self.config = layer, config

    def forward(self, embeds, hidden, rotary, positions):
        x = self.parts['joint'](torch.cat([self.parts['e'](embeds), self.parts['h'](hidden)], -1))
        mask = create_causal_mask(config=self.config, inputs_embeds=x, attention_mask=None, past_key_values=None,
                                  position_ids=positions if positions.ndim == 2 else None, allow_is_causal_skip=False)
        y = self.layer(x, attention_mask=mask, position_embeddings=rotary(x, positions), position_ids=None, past_key_values=None)
        y = y[0] if isinstance(y, tuple) else y
        s = self.parts['out'](y)
        return s, s if self.chain_after_norm else y


def golden(name, model, base, draft, head, embed, expand):
    """expand(positions [1, T]) is what the rotary embedding takes."""
    ids, nxt, chain = ids_for(name, T), ids_for(name + 'next', 1), ids_for(name + 'chain', CHAIN)
    hidden = base(input_ids=ids[None], use_cache=False).last_hidden_state
    out = {'input_ids': ids.int(), 'next_id': nxt.int(), 'chain_ids': chain.int(), 'logits': head(hidden)[0], 'hidden': hidden[0]}
    tokens, states, logits = torch.cat([ids[1:], nxt]), hidden, []
    for step in range(CHAIN + 1):
        positions = torch.arange(len(tokens))[None]
        s, carry = draft(embed(tokens)[None], states, base.rotary_emb, expand(positions))
        if step == 0: out['draft_logits'], out['draft_hidden'] = head(s)[0], carry[0]
        else: logits.append(head(s)[0, -1])
        if step < CHAIN: tokens, states = torch.cat([tokens, chain[step:step + 1]]), torch.cat([states, carry[:, -1:]], 1)
    out['chain_logits'] = torch.stack(logits)
    print('OK', name, {k: (tuple(v.shape), round(v.float().abs().mean().item(), 3)) for k, v in out.items() if 'logits' in k})
    return {k: v.contiguous() for k, v in out.items()}


def separate(state):
    """Experts one by one, as MTP layers are stored; the fused tensors hold gate and up in turn."""
    out = {}
    for n, t in state.items():
        if n.endswith('experts.gate_up_proj'):
            for e in range(t.shape[0]):
                for part, rows in zip(('gate_proj', 'up_proj'), t[e].chunk(2, 0)):
                    out[n.replace('gate_up_proj', f'{e}.{part}.weight')] = rows
        elif n.endswith('experts.down_proj'):
            for e in range(t.shape[0]): out[n.replace('down_proj', f'{e}.down_proj.weight')] = t[e]
        else:
            out[n] = t
    return out


def write(name, model, gold, extra):
    d = f'{OUT}/{name}'; os.makedirs(d, exist_ok=True)
    # Rounded already: a cast copy, for casting the model itself would round its rope tables.
    import copy
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(d)
    state = load_file(f'{d}/model.safetensors')
    keep = lambda n, t: t.float() if 'e_score_correction' in n else t.to(torch.bfloat16)
    state.update({n: keep(n, t).contiguous() for n, t in separate(extra).items()})
    save_file(state, f'{d}/model.safetensors', metadata={'format': 'pt'})
    save_file(gold, f'{d}/golden.safetensors')
    config = json.load(open(f'{d}/config.json'))
    config['mtp_num_hidden_layers' if 'qwen' in name else 'num_nextn_predict_layers'] = 1
    json.dump(config, open(f'{d}/config.json', 'w'), indent=1)
    if os.path.exists(f'{d}/generation_config.json'): os.remove(f'{d}/generation_config.json')
    return state, config


def converted(name, state, config):
    """The same model as a conversion to MLX has it; norms in float32, which the added one would leave rounded otherwise."""
    d = f'{OUT}/{name}_converted'; os.makedirs(d, exist_ok=True)
    out = {}
    for n, t in state.items():
        if t.ndim == 1 and n.endswith('norm.weight') or n.startswith('mtp.') and t.ndim == 1:
            if not n.endswith('linear_attn.norm.weight'): t = t.float() + 1
        if n.endswith('conv1d.weight'): t = t.transpose(1, 2)
        for prefix in ('model.', 'lm_head.', 'mtp.'):
            if n.startswith(prefix): n = 'language_model.' + n; break
        out[n] = t.contiguous()
    save_file(out, f'{d}/model.safetensors', metadata={'format': 'pt'})
    json.dump(config, open(f'{d}/config.json', 'w'), indent=1)


def qwen(name, moe):
    text = dict(BASE, num_key_value_heads=2, head_dim=64, num_hidden_layers=2, layer_types=['linear_attention', 'full_attention'],
        linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4,
        rms_norm_eps=1e-6, tie_word_embeddings=not moe,
        rope_parameters=dict(rope_type='default', rope_theta=1e7, partial_rotary_factor=0.25, mrope_section=[3, 3, 2], mrope_interleaved=True))
    if moe: text.update(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32)
    else: text.update(intermediate_size=96)
    M = q35moe if moe else q35
    prefix = 'Qwen3_5Moe' if moe else 'Qwen3_5'
    config = getattr(M, prefix + 'TextConfig')(**text); config._attn_implementation = 'eager'
    torch.manual_seed(SEED)
    model = getattr(M, prefix + 'ForCausalLM')(config).float().eval(); fill(model, name)
    one = getattr(M, prefix + 'TextConfig')(**dict(text, num_hidden_layers=1, layer_types=['full_attention'])); one._attn_implementation = 'eager'
    layer = getattr(M, prefix + 'DecoderLayer')(one, 0).float()
    draft = Draft(one, layer, getattr(M, prefix + 'RMSNorm'), ('pre_fc_norm_embedding', 'pre_fc_norm_hidden', 'fc', 'norm'), True).float().eval()
    fill(draft, name + 'mtp')
    gold = golden(name, model, model.model, draft, model.lm_head, model.model.embed_tokens,
                  lambda p: p[None].expand(3, 1, -1))
    extra = {f'mtp.layers.0.{n}': t for n, t in layer.state_dict().items()}
    for n, part in zip(draft.names, ('e', 'h', 'joint', 'out')): extra[f'mtp.{n}.weight'] = draft.parts[part].weight
    state, config = write(name, model, gold, extra)
    if not moe: converted(name, state, config)


def glm(name, M, prefix, config, one, own_tables):
    for c in (config, one): c._attn_implementation = 'eager'
    torch.manual_seed(SEED)
    model = getattr(M, prefix + 'ForCausalLM')(config).float().eval(); fill(model, name)
    layer = getattr(M, prefix + 'DecoderLayer')(one, 0).float()
    draft = Draft(one, layer, getattr(M, prefix + 'RMSNorm'), ('enorm', 'hnorm', 'eh_proj', 'shared_head.norm'), False).float().eval()
    fill(draft, name + 'mtp')
    head, embed = model.lm_head, model.model.embed_tokens
    extra = {n: t for n, t in layer.state_dict().items()}
    for n, part in zip(draft.names, ('e', 'h', 'joint', 'out')): extra[n + '.weight'] = draft.parts[part].weight
    if own_tables:  # GLM-4.5 and GLM-4.7-Flash ship both; GLM-4.6 and 5.x share the model's
        embed, head_of_draft = torch.nn.Embedding(V, H), torch.nn.Linear(H, V, bias=False)
        fill(torch.nn.ModuleDict({'embed': embed, 'head': head_of_draft}), name + 'tables')
        extra['embed_tokens.weight'], extra['shared_head.head.weight'] = embed.weight, head_of_draft.weight
    gold = golden(name, model, model.model, draft, head, embed, lambda p: p)
    if own_tables:
        # The draft's logits come from its own head: again, with that one.
        again = golden(name, model, model.model, draft, head_of_draft, embed, lambda p: p)
        gold.update({k: again[k] for k in ('draft_logits', 'chain_logits')})
    at = f'model.layers.{config.num_hidden_layers}.'
    write(name, model, gold, {at + n: t for n, t in extra.items()})


def glm4_moe(name):
    b = dict(BASE, num_key_value_heads=2, head_dim=32, intermediate_size=96, n_routed_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=32, n_shared_experts=1, n_group=1, topk_group=1, use_qk_norm=True, attention_bias=True,
        routed_scaling_factor=2.5, norm_topk_prob=True, partial_rotary_factor=0.5, rope_theta=1e6)
    glm(name, glm4, 'Glm4Moe', tf.Glm4MoeConfig(**b, num_hidden_layers=2, first_k_dense_replace=1),
        tf.Glm4MoeConfig(**b, num_hidden_layers=1, first_k_dense_replace=0), True)


def latent():
    return dict(BASE, num_key_value_heads=4, intermediate_size=96, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=32,
        n_shared_experts=1, routed_scaling_factor=1.8, kv_lora_rank=32, q_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=32,
        v_head_dim=24, rope_parameters=dict(rope_type='default', rope_theta=1e6))


def glm4_moe_lite(name):
    b = dict(latent(), n_group=1, topk_group=1)
    glm(name, lite, 'Glm4MoeLite', tf.Glm4MoeLiteConfig(**b, num_hidden_layers=2, first_k_dense_replace=1, mlp_layer_types=['dense', 'sparse']),
        tf.Glm4MoeLiteConfig(**b, num_hidden_layers=1, first_k_dense_replace=0, mlp_layer_types=['sparse']), True)


def glm_moe_dsa(name):
    b = dict(latent(), index_topk=12, index_head_dim=32, index_n_heads=8)
    glm(name, dsa, 'GlmMoeDsa', tf.GlmMoeDsaConfig(**b, num_hidden_layers=3, first_k_dense_replace=1, mlp_layer_types=['dense', 'sparse', 'sparse'], indexer_types=['full', 'full', 'shared']),
        tf.GlmMoeDsaConfig(**b, num_hidden_layers=1, mlp_layer_types=['sparse'], indexer_types=['full']), False)


FAMILIES = {'qwen3_5': lambda n: qwen(n, False), 'qwen3_5_moe': lambda n: qwen(n, True),
            'glm4_moe': glm4_moe, 'glm4_moe_lite': glm4_moe_lite, 'glm_moe_dsa': glm_moe_dsa}
for family, make in FAMILIES.items():
    if not ONLY or family in ONLY: make(family)
