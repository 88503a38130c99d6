"""A zoo model of sparse attention at the released number of positions, around the length where the choice begins to matter.

Usage: python long_sparse.py FOLDER   (zoo/glm_moe_dsa as make_zoo.py wrote it; PyTorch, transformers 5.17)
Runs the weights of FOLDER with index_topk 2048 over 4096 tokens and writes FOLDER/golden_long.safetensors:
  input_ids [4096] int32, rows [R] int32 and logits [R, V] float32 of those rows.
"""
import sys
import torch
from safetensors.torch import save_file
import transformers as tf

assert tf.__version__ == '5.17.0', tf.__version__
folder, T, TOP_K, CHUNK = sys.argv[1], 4096, 2048, 512
torch.set_grad_enabled(False)
torch.set_num_threads(2)
config = tf.AutoConfig.from_pretrained(folder)
config.index_topk, config._attn_implementation = TOP_K, 'eager'
model = tf.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
ids = torch.randint(8, config.vocab_size, (T,), generator=torch.Generator().manual_seed(11))
rows = [0, 511, 2046, 2047, 2048, 2049, 2050, 2111, 3000, 4095]
cache, logits = tf.DynamicCache(config=config), []
for at in range(0, T, CHUNK):
    part = model(input_ids=ids[None, at:at + CHUNK], past_key_values=cache, use_cache=True)
    logits += [part.logits[0, r - at].clone() for r in rows if at <= r < at + CHUNK]
save_file({'input_ids': ids.int(), 'rows': torch.tensor(rows, dtype=torch.int32), 'logits': torch.stack(logits)}, f'{folder}/golden_long.safetensors')
print('OK', folder, torch.stack(logits).abs().mean().item())
