"""Whole tiny models that hear: Gemma 3n and Gemma 4 with their audio towers, on sounds of many lengths.

Usage: python audio.py OUT_DIR SEED   (PyTorch 2.9, transformers 5.17)
Writes gemma3n_audio and gemma4_audio below OUT_DIR: config.json, model.safetensors (bfloat16) and golden_audio.safetensors:
  mel [M, 128] float32, of which sound i takes the first cases[i][0] frames, cases[i][1] of them valid;
  features.i [rows, hidden] float32, what takes the place of the sound's placeholders;
  input_ids [T] int32, logits [T, V] float32 of a prompt with sound `sound`;
  Gemma 3n: hard_ids [N] int32 and hard_features [N, hidden], ids of the tower's own table.
Gemma 4's projections have finite bounds, narrow enough to be felt.
"""
import copy
import math
import os
import sys
import zlib

import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file
from transformers.models.gemma3n import modeling_gemma3n

out, seed = sys.argv[1], int(sys.argv[2])
torch.set_grad_enabled(False)
torch.set_num_threads(2)


def generator(name):
    return torch.Generator().manual_seed(seed * 1000003 + zlib.crc32(name.encode()))


def build(cls, config, name):
    torch.manual_seed(seed)
    config._attn_implementation = 'eager'
    model = cls(config).float()
    g = generator(name)
    for n, p in model.named_parameters():
        if p.ndim >= 2:
            spread = 1 / math.sqrt(int(np.prod(p.shape[1:])))
            if 'embed' in n and p.ndim == 2 and 'proj' not in n:
                spread = 0.25
            if 'correct_coefs' in n or 'prediction_coefs' in n:
                spread = 0.3
            p.copy_(torch.randn(p.shape, generator=g) * spread)
        else:
            p.add_(torch.randn(p.shape, generator=g) * 0.15)
    for n, b in model.named_buffers():
        bound = n.rsplit('.', 1)[-1]
        if bound in ('input_min', 'input_max', 'output_min', 'output_max'):
            b.copy_((1 + torch.rand((), generator=g)) * (-1 if bound.endswith('min') else 1))
    for t in [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith(('_min', '_max')))]:
        t.copy_(t.to(torch.bfloat16).float())
    return model.eval()


def sound(mel, frames, valid):
    return mel[None, :frames], (torch.arange(frames) < valid)[None]


def ids_for(name, count, low, high):
    return torch.randint(low, high, (count,), generator=generator(name)).tolist()


def finish(name, model, golden):
    folder = f'{out}/{name}'
    os.makedirs(folder, exist_ok=True)
    saved = copy.deepcopy(model).to(torch.bfloat16)
    state = {k: v for k, v in saved.state_dict().items() if 'embed_vision' not in k and 'lm_head' not in k}
    saved.save_pretrained(folder, state_dict=state)
    save_file({k: v.contiguous() for k, v in golden.items()}, f'{folder}/golden_audio.safetensors')
    print(name, sum(p.numel() for p in model.parameters()), 'parameters,',
          {k: tuple(v.shape) for k, v in golden.items()}, golden['logits'].abs().mean().item())


def gemma3n(name):
    text = dict(vocab_size=400, vocab_size_per_layer_input=384, hidden_size=64, intermediate_size=64, num_hidden_layers=5,
                num_attention_heads=2, num_key_value_heads=1, head_dim=32, hidden_size_per_layer_input=32,
                num_kv_shared_layers=2, laurel_rank=16, sliding_window=16, activation_sparsity_pattern=[0.95] + [0.0] * 4,
                pad_token_id=0, bos_token_id=2, eos_token_id=1,
                layer_types=['sliding_attention', 'full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'])
    audio = dict(vocab_size=8, vocab_offset=392, hidden_size=64, conf_num_hidden_layers=2, conf_num_attention_heads=2,
                 sscp_conv_channel_size=(16, 8))
    config = tf.Gemma3nConfig(text_config=text, audio_config=audio,
                              vision_config=dict(vocab_size=8, vocab_offset=384, hidden_size=32),
                              audio_soft_tokens_per_image=9, image_token_id=385, audio_token_id=393, boi_token_id=10,
                              eoi_token_id=384, boa_token_id=11, eoa_token_id=392)

    class WithoutVision(modeling_gemma3n.AutoModel):  # the vision tower would need timm
        @classmethod
        def from_config(cls, config, **kwargs):
            if config is vision:
                return torch.nn.Identity()
            return tf.AutoModel.from_config(config, **kwargs)

    vision = config.vision_config
    modeling_gemma3n.AutoModel = WithoutVision
    model = build(tf.Gemma3nForConditionalGeneration, config, name)
    mel = torch.randn(150, 128, generator=generator(name + 'mel'))
    cases = [(144, 144), (120, 101), (99, 99), (48, 45), (51, 50), (52, 50), (53, 50), (55, 50), (64, 61), (100, 49),
             (4, 1), (1, 1), (16, 3), (150, 141)]
    golden = {'mel': mel, 'cases': torch.tensor(cases, dtype=torch.int32)}
    hard = list(range(392, 400))
    golden['hard_ids'] = torch.tensor(hard, dtype=torch.int32)
    golden['hard_features'] = model.model.embed_audio(input_ids=torch.tensor([hard]))[0]
    ids = [2, *ids_for(name, 7, 12, 384), 11, *[393] * 9, 392, *ids_for(name + 'after', 9, 12, 384)]
    for i, (frames, valid) in enumerate(cases):
        if frames > 144:  # more rows than there are placeholders: the tower alone, cut and filled up as the model does it
            features, mask = sound(mel, frames, valid)
            o = model.model.get_audio_features(features, ~mask, return_dict=True)
            filling = model.model.embed_audio(input_ids=torch.tensor([[399]]))
            rows = torch.where(o.audio_mel_mask.unsqueeze(-1), filling, o.pooler_output)[0, :9]
            golden[f'features.{i}'] = rows
            continue
        features, mask = sound(mel, frames, valid)
        o = model.model(input_ids=torch.tensor([ids]), input_features=features, input_features_mask=mask, use_cache=False)
        golden[f'features.{i}'] = o.audio_hidden_states.reshape(9, -1)
    features, mask = sound(mel, *cases[1])
    golden['sound'] = torch.tensor([1], dtype=torch.int32)
    golden['input_ids'] = torch.tensor(ids, dtype=torch.int32)
    golden['logits'] = model(input_ids=torch.tensor([ids]), input_features=features, input_features_mask=mask,
                             use_cache=False).logits[0]
    finish(name, model, golden)


def gemma4(name):
    text = dict(vocab_size=384, vocab_size_per_layer_input=384, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
                num_attention_heads=2, num_key_value_heads=1, head_dim=32, global_head_dim=64, hidden_size_per_layer_input=32,
                num_kv_shared_layers=0, sliding_window=16, final_logit_softcapping=30.0, pad_token_id=0, bos_token_id=2,
                eos_token_id=1, layer_types=['sliding_attention', 'sliding_attention', 'sliding_attention', 'full_attention'])
    audio = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, subsampling_conv_channels=[128, 8],
                 output_proj_dims=96)
    config = tf.Gemma4Config(text_config=text, vision_config=None, audio_config=audio, image_token_id=4, video_token_id=5,
                             boi_token_id=6, eoi_token_id=7, audio_token_id=3, boa_token_id=8, eoa_token_index=9)
    model = build(tf.Gemma4ForConditionalGeneration, config, name)
    # With "eager" the tower takes an additive mask for one of truth values, and hides what is to be seen.
    model.model.audio_tower.config._attn_implementation = 'sdpa'
    mel = torch.randn(304, 128, generator=generator(name + 'mel'))
    cases = [(4, 1), (48, 48), (52, 50), (104, 97), (99, 99), (260, 257), (304, 300), (1, 1), (18, 17), (20, 19)]
    golden = {'mel': mel, 'cases': torch.tensor(cases, dtype=torch.int32)}
    for i, case in enumerate(cases):
        features, mask = sound(mel, *case)
        o = model.model.get_audio_features(features, mask, return_dict=True)
        golden[f'features.{i}'] = o.pooler_output[o.attention_mask]
    count = len(golden['features.2'])
    ids = [2, *ids_for(name, 7, 10, 384), 8, *[3] * count, 9, *ids_for(name + 'after', 9, 10, 384)]
    features, mask = sound(mel, *cases[2])
    golden['sound'] = torch.tensor([2], dtype=torch.int32)
    golden['input_ids'] = torch.tensor(ids, dtype=torch.int32)
    golden['logits'] = model(input_ids=torch.tensor([ids]), input_features=features, input_features_mask=mask,
                             use_cache=False).logits[0]
    finish(name, model, golden)


gemma3n('gemma3n_audio')
gemma4('gemma4_audio')
