"""Tiny random checkpoints in Hugging Face layout with float32 reference outputs.

Usage: python make_zoo.py OUT_DIR SEED [family ...]
Each family folder holds config.json, model.safetensors (bfloat16) and golden.safetensors:
  input_ids [T] int32, logits [T,V] float32 (one full prefill),
  greedy_ids [N] int32, greedy_logits [N,V] float32 (token by token with the cache)
  and, for multimodal families, the tower inputs and outputs.
"""
import copy, sys, os, json, math, zlib, traceback
import torch, numpy as np
from safetensors.torch import load_file, save_file
import transformers as tf
out, seed = sys.argv[1], int(sys.argv[2])
only = set(sys.argv[3:])
torch.set_grad_enabled(False)
torch.set_num_threads(int(os.environ.get('ZOO_THREADS', '2')))

V = 384

def reinit(model, name, seed):
    g = torch.Generator().manual_seed(seed * 1000003 + zlib.crc32(name.encode()))
    for n, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if b.is_floating_point() and ('e_score_correction' in n or 'std_' in n )]:
        if p.ndim >= 2:
            fan = p.shape[-1] if p.ndim == 2 else int(np.prod(p.shape[1:])) if p.ndim == 4 else p.shape[-1]
            if 'embed' in n and p.ndim == 2 and 'proj' not in n: s = 0.25
            else: s = 1.0 / math.sqrt(max(fan, 1))
            if 'correct_coefs' in n or 'prediction_coefs' in n: s = 0.3
            if 'conv1d' in n: s = 0.5
            p.copy_(torch.randn(p.shape, generator=g) * s)
        else:
            p.add_(torch.randn(p.shape, generator=g) * 0.15)
        p.copy_(p.to(torch.bfloat16).float())

def finish(name, model, ids, extra=None, gen=24, fwd=None):
    d = f"{out}/{name}"; os.makedirs(d, exist_ok=True)
    model.eval()
    gold = {}
    inp = torch.tensor([ids])
    fwd = fwd or {}
    r = model(input_ids=inp, use_cache=False, **fwd)
    gold['input_ids'] = torch.tensor(ids, dtype=torch.int32)
    gold['logits'] = r.logits[0].float().contiguous()
    # token by token with the cache
    r = model(input_ids=inp, use_cache=True, **fwd)
    pkv = r.past_key_values
    gids, glog = [], []
    lg = r.logits[0, -1]
    for i in range(gen):
        t = int(lg.argmax()); gids.append(t); glog.append(lg.float().clone())
        r = model(input_ids=torch.tensor([[t]]), past_key_values=pkv, use_cache=True)
        pkv = r.past_key_values; lg = r.logits[0, -1]
    # and with fixed tokens, so that one early difference cannot hide the rest
    fids = ids_for(name + 'forced', gen, lo=10, hi=min(V - 64, 320)); r = model(input_ids=inp, use_cache=True, **fwd); pkv = r.past_key_values; fl = []
    for t in fids:
        r = model(input_ids=torch.tensor([[t]]), past_key_values=pkv, use_cache=True); pkv = r.past_key_values; fl.append(r.logits[0, -1].float().clone())
    gold['forced_ids'] = torch.tensor(fids, dtype=torch.int32); gold['forced_logits'] = torch.stack(fl).contiguous()
    gold['greedy_ids'] = torch.tensor(gids, dtype=torch.int32)
    gold['greedy_logits'] = torch.stack(glog).contiguous()
    # consistency of the reference itself: full forward over prompt+generated
    full = model(input_ids=torch.tensor([ids + gids]), use_cache=False, **fwd).logits[0]
    devs = (full[len(ids)-1:len(ids)-1+gen] - gold['greedy_logits']).abs().amax(-1); dev = devs.max().item()
    if dev > 1e-2: print('   per step', [f'{x:.1e}' for x in devs.tolist()])
    if extra: gold.update({k: v.contiguous() for k, v in extra.items()})
    save_file(gold, f"{d}/golden.safetensors")
    # a cast copy: casting the model itself would also round its rope tables, for every output after this one
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(d, max_shard_size="1GB")
    n = sum(p.numel() for p in model.parameters())
    print(f"OK {name}: {n} params, |logits| {gold['logits'].abs().mean():.3f}, cached-vs-full {dev:.2e}, greedy {gids[:8]}", flush=True)

def ids_for(name, n, hi=V, lo=8):
    g = torch.Generator().manual_seed(seed * 7919 + zlib.crc32(name.encode()))
    return torch.randint(lo, hi, (n,), generator=g).tolist()

def build(cls, cfg, name):
    torch.manual_seed(seed)
    cfg._attn_implementation = 'eager'
    m = cls(cfg).float()
    reinit(m, name, seed)
    return m

def rnd(name, *shape):
    g = torch.Generator().manual_seed(seed * 31 + zlib.crc32(name.encode()))
    return torch.randn(*shape, generator=g)

F = {}
def family(f): F[f.__name__] = f; return f

base = dict(vocab_size=V, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
            pad_token_id=0, bos_token_id=2, eos_token_id=1)

@family
def llama(n):
    c = tf.LlamaConfig(**base, num_hidden_layers=3, tie_word_embeddings=False, max_position_embeddings=4096,
        rope_parameters=dict(rope_type='llama3', rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))
    finish(n, build(tf.LlamaForCausalLM, c, n), ids_for(n, 48))

@family
def qwen3(n):
    c = tf.Qwen3Config(**base, head_dim=64, num_hidden_layers=3, tie_word_embeddings=True, rope_theta=1000000.0)
    finish(n, build(tf.Qwen3ForCausalLM, c, n), ids_for(n, 48))

@family
def qwen3_moe(n):
    c = tf.Qwen3MoeConfig(**base, head_dim=64, num_hidden_layers=3, num_experts=8, num_experts_per_tok=4, moe_intermediate_size=64,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1], tie_word_embeddings=False)
    finish(n, build(tf.Qwen3MoeForCausalLM, c, n), ids_for(n, 48))

def q35text(moe):
    b = dict(base);
    d = dict(head_dim=64, num_hidden_layers=5, linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=32,
        linear_num_key_heads=2, linear_num_value_heads=4, full_attention_interval=4, rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type='default', rope_theta=10000000.0, partial_rotary_factor=0.25, mrope_section=[3,3,2], mrope_interleaved=True))
    if moe:
        b.pop('intermediate_size')
        d.update(num_experts=8, num_experts_per_tok=4, moe_intermediate_size=64, shared_expert_intermediate_size=64)
    b.update(d); return b

def q35vis(): return dict(depth=2, hidden_size=64, intermediate_size=128, num_heads=2, patch_size=16, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=64, num_position_embeddings=64)

def q35(n, moe, tie):
    C = tf.Qwen3_5MoeConfig if moe else tf.Qwen3_5Config
    M = tf.Qwen3_5MoeForConditionalGeneration if moe else tf.Qwen3_5ForConditionalGeneration
    tc = q35text(moe); tc['tie_word_embeddings'] = tie
    c = C(text_config=tc, vision_config=q35vis(), image_token_id=4, video_token_id=5, vision_start_token_id=6, vision_end_token_id=7, tie_word_embeddings=tie)
    m = build(M, c, n)
    finish(n, m, ids_for(n, 150))
    # image: 1 image, grid t=1,h=4,w=6 patches -> 6 merged tokens
    grid = torch.tensor([[1, 4, 6]]); px = rnd(n + 'px', 24, 3 * 2 * 16 * 16)
    o = m.model.visual(px, grid_thw=grid)
    feats = o.pooler_output if hasattr(o, 'pooler_output') and o.pooler_output is not None else (o[0] if not torch.is_tensor(o) else o)
    ids = ids_for(n + 'txt', 10) + [6] + [4] * 6 + [7] + ids_for(n + 'txt2', 12)
    mm = torch.tensor([[1 if t == 4 else 0 for t in ids]])
    kw = dict(pixel_values=px, image_grid_thw=grid)
    try: lg = m(input_ids=torch.tensor([ids]), mm_token_type_ids=mm, use_cache=False, **kw).logits[0]
    except TypeError: lg = m(input_ids=torch.tensor([ids]), use_cache=False, **kw).logits[0]
    save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'pixel_values': px, 'grid_thw': grid.int(), 'image_features': feats.contiguous(), 'logits': lg.contiguous()}, f"{out}/{n}/golden_image.safetensors")
    print('   image ok', feats.shape, lg.abs().mean().item())

@family
def qwen3_5(n): q35(n, False, True)
@family
def qwen3_5_moe(n): q35(n, True, False)

@family
def qwen3_next(n):
    b = q35text(True); b['intermediate_size'] = 128
    b['rope_parameters'] = dict(rope_type='default', rope_theta=10000000.0, partial_rotary_factor=0.25)
    c = tf.Qwen3NextConfig(**b, decoder_sparse_step=1, norm_topk_prob=True, mlp_only_layers=[])
    finish(n, build(tf.Qwen3NextForCausalLM, c, n), ids_for(n, 150))

@family
def gemma3n_text(n):
    c = tf.Gemma3nTextConfig(vocab_size=V, vocab_size_per_layer_input=V, hidden_size=64, intermediate_size=128, num_hidden_layers=10,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, hidden_size_per_layer_input=64, num_kv_shared_layers=4, laurel_rank=64,
        sliding_window=16, activation_sparsity_pattern=[0.95, 0.95, 0.5] + [0.0] * 7, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        layer_types=['sliding_attention'] * 2 + ['full_attention'] + ['sliding_attention'] * 2 + ['full_attention'] + ['sliding_attention'] * 1 + ['full_attention'] + ['sliding_attention', 'full_attention'])
    finish(n, build(tf.Gemma3nForCausalLM, c, n), ids_for(n, 48))

def g4text(**k):
    d = dict(vocab_size=V, vocab_size_per_layer_input=V, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32, global_head_dim=64,
        sliding_window=16, final_logit_softcapping=30.0, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    d.update(k); return d

def g4vis(): return dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=32, patch_size=16, pooling_kernel_size=3, position_embedding_size=256, standardize=True)

def g4(n, tc, vision=True, audio=False):
    vc = g4vis() if vision else None
    ac = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, subsampling_conv_channels=[128, 8], conv_kernel_size=5, attention_chunk_size=4, attention_context_left=5, output_proj_dims=96) if audio else None
    c = tf.Gemma4Config(text_config=tc, vision_config=vc, audio_config=ac, image_token_id=4, video_token_id=5, boi_token_id=6, eoi_token_id=7, audio_token_id=3, boa_token_id=8, eoa_token_index=9)
    m = build(tf.Gemma4ForConditionalGeneration, c, n)
    finish(n, m, ids_for(n, 48, lo=10))
    if vision:
        # 6x9 patches, 3x3 pooling -> 2x3 soft tokens
        px = torch.rand(1, 54, 3 * 16 * 16, generator=torch.Generator().manual_seed(seed))
        pos = torch.tensor([[[x, y] for y in range(6) for x in range(9)]])
        try:
            o = m.model.get_image_features(pixel_values=px, image_position_ids=pos)
            feats = o.pooler_output if hasattr(o, 'pooler_output') else o
            feats = torch.cat(list(feats)) if isinstance(feats, (tuple, list)) else feats
            feats = feats.reshape(-1, feats.shape[-1]); k = feats.shape[0]
            ids = [2] + ids_for(n + 'txt', 10, lo=10) + [6] + [4] * k + [7] + ids_for(n + 'txt2', 12, lo=10)
            mm = torch.tensor([[1 if t == 4 else 0 for t in ids]])
            lg = m(input_ids=torch.tensor([ids]), pixel_values=px, image_position_ids=pos, mm_token_type_ids=mm, use_cache=False).logits[0]
            save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'pixel_values': px, 'image_position_ids': pos.int(), 'image_features': feats.contiguous(), 'logits': lg.contiguous()}, f"{out}/{n}/golden_image.safetensors")
            print('   image ok', feats.shape, lg.abs().mean().item())
        except Exception: traceback.print_exc()
    if audio:
        # With 'eager' the tower takes an additive mask for one of truth values, and hides what is to be seen.
        m.model.audio_tower.config._attn_implementation = 'sdpa'
        try:
            mel = rnd(n + 'mel', 1, 64, 128); msk = torch.ones(1, 64, dtype=torch.bool)
            o = m.model.get_audio_features(mel, msk)
            feats = o.pooler_output if hasattr(o, 'pooler_output') else o[0]
            feats = torch.cat(list(feats)) if isinstance(feats, (tuple, list)) else feats
            feats = feats.reshape(-1, feats.shape[-1]); k = feats.shape[0]
            ids = [2] + ids_for(n + 'txt', 6, lo=10) + [8] + [3] * k + [9] + ids_for(n + 'txt2', 6, lo=10)
            lg = m(input_ids=torch.tensor([ids]), input_features=mel, input_features_mask=msk, use_cache=False).logits[0]
            save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'input_features': mel, 'audio_features': feats.contiguous(), 'logits': lg.contiguous()}, f"{out}/{n}/golden_audio.safetensors")
            print('   audio ok', feats.shape, lg.abs().mean().item())
        except Exception: traceback.print_exc()

@family
def gemma4_e2b(n):  # per-layer embeddings, KV sharing, double-wide MLP, audio
    g4(n, g4text(num_hidden_layers=10, hidden_size_per_layer_input=64, num_kv_shared_layers=4, use_double_wide_mlp=True,
        layer_types=(['sliding_attention'] * 4 + ['full_attention']) * 2), audio=True)
@family
def gemma4_dense(n):  # 31B style: k = v on global layers, no per-layer embeddings
    g4(n, g4text(num_hidden_layers=6, hidden_size_per_layer_input=0, attention_k_eq_v=True, num_global_key_value_heads=1, use_bidirectional_attention='vision'))
@family
def gemma4_moe(n):  # 26B-A4B style
    g4(n, g4text(num_hidden_layers=6, hidden_size_per_layer_input=0, attention_k_eq_v=True, num_global_key_value_heads=1, enable_moe_block=True, num_experts=8, top_k_experts=4, moe_intermediate_size=64, use_bidirectional_attention='vision'))

@family
def gemma4_unified(n):  # 12B: k = v on global layers; patches and waveform frames are projected without a tower
    tc = g4text(num_hidden_layers=6, attention_k_eq_v=True, num_global_key_value_heads=1)
    tc.pop('vocab_size_per_layer_input')
    c = tf.Gemma4UnifiedConfig(text_config=tc, vision_config=dict(patch_size=4, pooling_kernel_size=3, mm_embed_dim=64, mm_posemb_size=32, output_proj_dims=64),
        audio_config=dict(audio_embed_dim=40), image_token_id=4, video_token_id=5, boi_token_id=6, eoi_token_id=7, audio_token_id=3, boa_token_id=8, eoa_token_index=9)
    m = build(tf.Gemma4UnifiedForConditionalGeneration, c, n)
    g = torch.Generator().manual_seed(seed + 1)
    for k, b in m.named_buffers():
        if k.endswith('layer_scalar'): b.copy_((0.6 + 0.8 * torch.rand(b.shape, generator=g)).to(torch.bfloat16).float())
    finish(n, m, ids_for(n, 48, lo=10))
    g = torch.Generator().manual_seed(seed)
    # 2 x 3 cells of 12 x 12 pixels and two rows of padding, which give no tokens
    px = torch.rand(1, 8, 3 * 12 * 12, generator=g); pos = torch.tensor([[[x, y] for y in range(2) for x in range(3)] + [[-1, -1]] * 2])
    feats = torch.cat(list(m.model.get_image_features(px, pos, return_dict=True).pooler_output)); k = feats.shape[0]
    ids = [2] + ids_for(n + 'txt', 10, lo=10) + [6] + [4] * k + [7] + ids_for(n + 'txt2', 12, lo=10)
    mm = torch.tensor([[1 if t == 4 else 0 for t in ids]])
    # As generation masks: without a mask, forward() lets full-attention layers of this class see both ways too.
    mask = m.create_masks_for_generate(config=m.config, inputs_embeds=m.get_input_embeddings()(torch.tensor([ids])), attention_mask=torch.ones_like(mm),
        past_key_values=None, position_ids=torch.arange(len(ids))[None], mm_token_type_ids=mm)
    lg = m(input_ids=torch.tensor([ids]), pixel_values=px, image_position_ids=pos, mm_token_type_ids=mm, attention_mask=mask, use_cache=False).logits[0]
    save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'pixel_values': px, 'image_position_ids': pos.int(), 'image_features': feats.contiguous(), 'logits': lg.contiguous()}, f"{out}/{n}/golden_image.safetensors")
    print('   image ok', feats.shape, lg.abs().mean().item())
    wav = torch.randn(1, 9, 40, generator=g) * 0.1; msk = torch.ones(1, 9, dtype=torch.bool); msk[0, 7:] = False
    o = m.model.get_audio_features(wav, msk, return_dict=True); feats = o.pooler_output[o.attention_mask]; k = feats.shape[0]
    ids = [2] + ids_for(n + 'txt', 6, lo=10) + [8] + [3] * k + [9] + ids_for(n + 'txt2', 6, lo=10)
    lg = m(input_ids=torch.tensor([ids]), input_features=wav, input_features_mask=msk, use_cache=False).logits[0]
    save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'input_features': wav, 'input_features_mask': msk, 'audio_features': feats.contiguous(), 'logits': lg.contiguous()}, f"{out}/{n}/golden_audio.safetensors")
    print('   audio ok', feats.shape, lg.abs().mean().item())

@family
def glm4_moe(n):
    c = tf.Glm4MoeConfig(**base, head_dim=64, num_hidden_layers=4, n_routed_experts=8, num_experts_per_tok=4, moe_intermediate_size=64, n_shared_experts=1,
        n_group=1, topk_group=1, first_k_dense_replace=1, use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, norm_topk_prob=True, partial_rotary_factor=0.5, rope_theta=1000000.0)
    finish(n, build(tf.Glm4MoeForCausalLM, c, n), ids_for(n, 48))

@family
def glm4_moe_lite(n):  # GLM-4.7-Flash: latent attention without an indexer, groups of experts
    b = dict(base); b.update(num_key_value_heads=4)
    c = tf.Glm4MoeLiteConfig(**b, num_hidden_layers=3, moe_intermediate_size=64, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, routed_scaling_factor=1.8,
        n_group=4, topk_group=2, kv_lora_rank=64, q_lora_rank=64, qk_rope_head_dim=32, qk_nope_head_dim=64, v_head_dim=48, first_k_dense_replace=1, mlp_layer_types=['dense', 'sparse', 'sparse'],
        rope_parameters=dict(rope_type='default', rope_theta=1000000.0))
    finish(n, build(tf.Glm4MoeLiteForCausalLM, c, n), ids_for(n, 48))

@family
def glm_moe_dsa(n):
    b = dict(base); b.update(num_key_value_heads=4)
    c = tf.GlmMoeDsaConfig(**b, num_hidden_layers=6, moe_intermediate_size=64, n_routed_experts=8, num_experts_per_tok=4, n_shared_experts=1, routed_scaling_factor=2.5,
        kv_lora_rank=64, q_lora_rank=64, qk_rope_head_dim=16, qk_nope_head_dim=48, v_head_dim=64, index_topk=12, index_head_dim=32, index_n_heads=32, first_k_dense_replace=2,
        index_topk_freq=2, index_skip_topk_offset=2, rope_parameters=dict(rope_type='default', rope_theta=1000000.0))
    finish(n, build(tf.GlmMoeDsaForCausalLM, c, n), ids_for(n, 48))

@family
def gemma3n_audio_tower(n):
    d = f"{out}/{n}"; os.makedirs(d, exist_ok=True)
    c = tf.Gemma3nAudioConfig(hidden_size=64, conf_num_hidden_layers=2, conf_num_attention_heads=2, sscp_conv_channel_size=(16, 8), conf_attention_chunk_size=4, conf_attention_context_left=5)
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder
    torch.manual_seed(seed); m = Gemma3nAudioEncoder(c).float(); reinit(m, n, seed); m.eval()
    mel = rnd(n, 1, 64, 128); msk = torch.zeros(1, 64, dtype=torch.bool)
    o = m(mel, msk); e = o.last_hidden_state if hasattr(o, 'last_hidden_state') else o[0]
    save_file({'input_features': mel, 'encodings': e.contiguous()}, f"{d}/golden.safetensors"); m.save_pretrained(d)
    print('OK', n, e.shape)

@family
def gemma3n(n):
    """The whole model, with a vision tower that has one or two blocks of each kind, and ids of its own range."""
    import torch.nn as nn
    from timm.models.mobilenetv5 import MobileNetV5MultiScaleFusionAdapter as Adapter
    W = 128  # channels of the features
    text = dict(vocab_size=V, vocab_size_per_layer_input=320, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, hidden_size_per_layer_input=32, num_kv_shared_layers=2, laurel_rank=32,
        sliding_window=16, activation_sparsity_pattern=[0.95] + [0.0] * 3, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        layer_types=['sliding_attention', 'full_attention'] * 2)
    vision = dict(architecture='mobilenetv5_300m_enc', model_args=dict(channel_multiplier=0.1), hidden_size=W, vocab_size=32, vocab_offset=320)
    audio = dict(hidden_size=32, conf_num_hidden_layers=1, conf_num_attention_heads=2, sscp_conv_channel_size=[8, 4], vocab_size=32, vocab_offset=352)
    c = tf.Gemma3nConfig(text_config=text, vision_config=vision, audio_config=audio, image_token_id=321, boi_token_id=6, eoi_token_id=320,
        audio_token_id=353, boa_token_id=7, eoa_token_id=352)
    torch.manual_seed(seed); c._attn_implementation = 'eager'
    m = tf.Gemma3nForConditionalGeneration(c).float()
    net = m.model.vision_tower.timm_model
    net.blocks[1] = net.blocks[1][:2]
    net.blocks[2] = nn.Sequential(*[net.blocks[2][i] for i in (0, 1, 8, 9, 10)])
    net.blocks[3] = net.blocks[3][:3]
    ffn = net.msfa.ffn
    net.msfa = Adapter(in_chs=ffn.pw_exp.conv.in_channels, out_chs=W, output_resolution=16, act_layer=nn.GELU, norm_layer=type(net.msfa.norm))
    net.msfa.ffn.pw_exp.bn.act = ffn.pw_exp.bn.act  # the tanh form
    reinit(m, n, seed)
    g = torch.Generator().manual_seed(seed * 31 + zlib.crc32(n.encode()))
    for k, p in m.named_parameters():
        if 'gamma' in k: p.copy_((torch.rand(p.shape, generator=g) * 0.3 + 0.05).to(torch.bfloat16).float())
    finish(n, m, ids_for(n, 48, hi=320), gen=24)
    # answers of a random net name ids that have no row in the table
    gold = load_file(f"{out}/{n}/golden.safetensors")
    save_file({k: v for k, v in gold.items() if 'greedy' not in k}, f"{out}/{n}/golden.safetensors")
    # 8 x 8 pixels after the third stage: resized to 16 x 16
    px = torch.rand(1, 3, 128, 128, generator=g)
    feats = m.model.get_image_features(px).pooler_output[0]
    # 32 x 16 pixels: pooled in one direction; value (7 x + 5 y + 11 c) mod 64 over 63
    y, x, k = torch.meshgrid(torch.arange(512), torch.arange(256), torch.arange(3), indexing='ij')
    formula = (((7 * x + 5 * y + 11 * k) % 64).float() / 63).permute(2, 0, 1)[None].contiguous()
    pooled = m.model.get_image_features(formula).pooler_output[0]
    hard = torch.tensor([[320, 321, 335, 351]]); rows = m.model.embed_vision(input_ids=hard)[0]
    ids = [2] + ids_for(n + 'txt', 10, hi=320) + [6] + [321] * 256 + [320] + ids_for(n + 'txt2', 12, hi=320) + [340]
    lg = m(input_ids=torch.tensor([ids]), pixel_values=px, use_cache=False).logits[0]
    save_file({'input_ids': torch.tensor(ids, dtype=torch.int32), 'pixel_values': px, 'image_features': feats.contiguous(), 'logits': lg.contiguous(),
        'hard_ids': hard[0].int(), 'hard_features': rows.contiguous(), 'pooled_features': pooled.contiguous()}, f"{out}/{n}/golden_image.safetensors")
    print('   image ok', feats.shape, lg.abs().mean().item())

for n, f in F.items():
    if only and n not in only: continue
    try: f(n)
    except Exception: print('FAIL', n); traceback.print_exc()

def preprocessing():
    """Image and audio preprocessing of each family on one picture and one sound."""
    d = f"{out}/preprocessing"; os.makedirs(d, exist_ok=True); g = {}
    from PIL import Image
    r = np.random.default_rng(seed); y, x = np.mgrid[0:213, 0:331]
    img = np.stack([127 + 120 * np.sin(x / 17 + y / 31), 127 + 120 * np.cos(x / 9), (x * 7 + y * 3) % 256], -1) + r.normal(0, 6, (213, 331, 3))
    img = np.clip(img, 0, 255).astype(np.uint8); im = Image.fromarray(img); im.save(f"{d}/picture.png"); g['image'] = torch.from_numpy(img)
    def tr(k, f):
        try:
            o = f()
            for kk, v in o.items():
                if torch.is_tensor(v): g[f"{k}.{kk}"] = (v.float() if v.is_floating_point() else v.int()).contiguous()
            print('   preprocessing', k, {kk: tuple(v.shape) for kk, v in o.items() if torch.is_tensor(v)})
        except Exception: traceback.print_exc()
    from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
    tr('gemma4_70', lambda: Gemma4ImageProcessor(max_soft_tokens=70)([im], return_tensors='pt'))
    from transformers import Qwen2VLImageProcessor
    tr('qwen3_5', lambda: Qwen2VLImageProcessor(patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[.5]*3, image_std=[.5]*3, size=dict(shortest_edge=64*64, longest_edge=192*192))([im], return_tensors='pt'))
    from transformers import SiglipImageProcessor
    tr('gemma3n_256', lambda: SiglipImageProcessor(size=dict(height=256, width=256), resample=2, do_normalize=False)([im], return_tensors='pt'))
    sr = 16000; t = np.arange(sr) / sr; wav = (0.4 * np.sin(2 * np.pi * (200 + 600 * t) * t) + 0.05 * r.normal(size=sr)).astype(np.float32); g['audio_16k'] = torch.from_numpy(wav)
    from transformers import Gemma3nAudioFeatureExtractor
    tr('gemma3n_audio', lambda: Gemma3nAudioFeatureExtractor()([wav], return_tensors='pt'))
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    tr('gemma4_audio', lambda: Gemma4AudioFeatureExtractor()([wav], return_tensors='pt'))
    save_file(g, f"{d}/golden.safetensors")
if not only or 'preprocessing' in only:
    try: preprocessing()
    except Exception: traceback.print_exc()

def gemma3n_vision_tower():
    """MobileNetV5 with narrow channels and fewer blocks: pixel_values [1, 3, 256, 256] in [0, 1] -> features [1, C, 16, 16] (encoder with its fusion adapter)."""
    from timm.models.mobilenetv5 import _gen_mobilenet_v5
    n = 'gemma3n_vision_tower'; d = f"{out}/{n}"; os.makedirs(d, exist_ok=True)
    torch.manual_seed(seed); m = _gen_mobilenet_v5('mobilenetv5_300m_enc', channel_multiplier=0.1, encoder=True, pad_type='same').float()  # as timm.create_model
    m.blocks[2] = m.blocks[2][:13]; m.blocks[3] = m.blocks[3][:5]  # fewer blocks of the same kinds; kinds and sizes follow from names and shapes
    g = torch.Generator().manual_seed(seed * 1000003 + zlib.crc32(n.encode()))
    for k, p in m.named_parameters():
        if 'gamma' in k: p.copy_(torch.rand(p.shape, generator=g) * 0.3 + 0.05)
        elif p.ndim >= 2: p.copy_(torch.randn(p.shape, generator=g) / math.sqrt(int(np.prod(p.shape[1:]))))
        else: p.add_(torch.randn(p.shape, generator=g) * 0.15)
        p.copy_(p.to(torch.bfloat16).float())
    m.eval(); px = torch.rand(1, 3, 256, 256, generator=g); stages = {}
    hooks = [b.register_forward_hook(lambda _, __, o, i=i: stages.__setitem__(f'stage{i}', o.contiguous())) for i, b in enumerate(m.blocks)]
    o = m(px)
    save_file({'pixel_values': px, 'features': o.contiguous(), **stages}, f"{d}/golden.safetensors")
    save_file({'model.vision_tower.timm_model.' + k: v.to(torch.bfloat16).contiguous() for k, v in m.state_dict().items()}, f"{d}/model.safetensors")
    print('OK', n, sum(p.numel() for p in m.parameters()), 'params', tuple(o.shape), o.abs().mean().item(), o.abs().max().item(), {k: tuple(v.shape) for k, v in stages.items()})
if not only or 'gemma3n_vision_tower' in only:
    try: gemma3n_vision_tower()
    except Exception: traceback.print_exc()
