"""GPT-2 as transformers writes it to a folder, read and run without transformers, whose import takes seconds.

The layers have transformers' names, so that its weights are loaded as they are, and do what transformers' do,
in the same order (held by tests/test_rescoring.py). Folders with anything unusual are left to transformers:
`load` says None.

Shapes: N tokens, W width.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh")
_USUAL = {  # what is computed here, where a configuration says anything about it
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "n_inner": None,
}


@dataclass(frozen=True)
class Gpt2Config:
    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    layer_norm_epsilon: float


@dataclass(frozen=True)
class Hidden:
    last_hidden_state: Tensor  # (1, N, W)


class Gpt2(nn.Module):
    """The model; `lm_head` gives logits of what `transformer` returns."""

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = _Body(config)
        self.lm_head = _Head(self.transformer.wte.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype


class _Body(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.wte = _embedding(config.vocab_size, config.n_embd)
        self.wpe = _embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(_Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, use_cache: bool = False
    ) -> Hidden:
        """input_ids, position_ids: (1, N). attention_mask: (1, 1, N, N), added. use_cache: not done."""
        x_1NW = self.wte(input_ids) + self.wpe(position_ids)
        for block in self.h:
            x_1NW = block(x_1NW, attention_mask)
        return Hidden(self.ln_f(x_1NW))


class _Head(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight: Tensor = weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


def _embedding(n_rows: int, width: int) -> nn.Embedding:
    """Without random numbers, which would take time."""
    return nn.Embedding(n_rows, width, _weight=torch.empty(n_rows, width))


class _Block(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        width = config.n_embd
        self.ln_1 = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.attn = nn.ModuleDict({"c_attn": _Affine(width, 3 * width), "c_proj": _Affine(width, width)})
        self.ln_2 = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.mlp = nn.ModuleDict({"c_fc": _Affine(width, 4 * width), "c_proj": _Affine(4 * width, width)})
        self._n_heads = config.n_head

    def forward(self, x_1NW: Tensor, mask: Tensor) -> Tensor:
        parts = self.attn["c_attn"](self.ln_1(x_1NW)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self._n_heads, -1)).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x_1NW = x_1NW + self.attn["c_proj"](seen.transpose(1, 2).flatten(2))
        inner = functional.gelu(self.mlp["c_fc"](self.ln_2(x_1NW)), approximate="tanh")
        projected: Tensor = self.mlp["c_proj"](inner)
        return x_1NW + projected


class _Affine(nn.Module):
    """A linear layer with its weights the other way round, as GPT-2 keeps them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x_1NW: Tensor) -> Tensor:
        return torch.addmm(self.bias, x_1NW.flatten(0, 1), self.weight)[None]


class FastTokenizer:
    """As much of transformers' tokenizer as scoring needs."""

    def __init__(self, tokenizer: Tokenizer, begin: str | None, end: str | None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.bos_token_id = None if begin is None else tokenizer.token_to_id(begin)
        self.eos_token_id = None if end is None else tokenizer.token_to_id(end)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, text: str, **_: bool) -> dict[str, list[int]]:
        """Without special tokens."""
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}


def load(folder: Path) -> tuple[Gpt2, FastTokenizer] | None:
    """Model and tokenizer of a folder in Hugging Face layout; None where transformers must read it.

    Raises what safetensors, torch and json do for broken files.
    """
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    if not all((folder / name).is_file() for name in names):
        return None
    said: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    of_tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    begin, end = (of_tokenizer.get(f"{name}_token") for name in ("bos", "eos"))
    usual = all(said.get(key, value) == value for key, value in _USUAL.items())
    sizes: dict[str, Any] = {
        key: said.get(key) for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    }
    plain_tokens = all(token is None or isinstance(token, str) for token in (begin, end))
    activation = said.get("activation_function", _TANH_GELUS[0])
    if not (usual and plain_tokens and None not in sizes.values() and activation in _TANH_GELUS):
        return None
    weights = load_file(folder / "model.safetensors")
    if not all(name.startswith("transformer.") and not name.endswith(".attn.bias") for name in weights):
        return None
    epsilon = said.get("layer_norm_epsilon", 1e-5)
    model = Gpt2(Gpt2Config(**{key: int(size) for key, size in sizes.items()}, layer_norm_epsilon=epsilon))
    floats = {name: tensor.float() for name, tensor in weights.items()}
    floats["lm_head.weight"] = floats["transformer.wte.weight"]
    model.load_state_dict(floats, strict=True, assign=True)
    model.lm_head.weight = model.transformer.wte.weight
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return model, FastTokenizer(tokenizer, begin, end)
