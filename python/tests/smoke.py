"""What a wheel must do where it was installed; tools/check_wheel runs it, with PyTorch and without."""

import importlib.util
from importlib.metadata import version

import dilated_attention_pytorch as package
import numpy as np

assert package.__version__ == version("dilated-attention-pytorch")
x = np.random.default_rng(0).standard_normal((1, 100, 4, 16)).astype(np.float32)
out = package.dilated_attention(x, x, x, [16, 32], [1, 2], is_causal=True)
assert np.allclose(out[:, 0], x[:, 0], rtol=1e-6)  # the first token sees itself alone

if importlib.util.find_spec("torch") is None:
    try:
        package.create_dilated_attention("auto", segment_lengths=[16], dilation_rates=[1])
    except ImportError as error:
        assert "pip install torch" in str(error)
    else:
        raise AssertionError("a module was created without PyTorch")
    print("smoke: without PyTorch", package.__version__)
else:
    import torch

    tensor = torch.from_numpy(x).requires_grad_()
    result = package.dilated_attention(tensor, tensor, tensor, [16, 32], [1, 2], is_causal=True)
    assert np.array_equal(result.detach().numpy(), out)
    result.sum().backward()
    module = package.create_dilated_attention("auto", segment_lengths=[16, 32], dilation_rates=[1, 2])
    assert module(tensor, tensor, tensor).shape == tensor.shape
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "libgomp" in line}
    assert len(loaded) == 1, loaded  # PyTorch and the extension share the threads of one
    print("smoke: with PyTorch", torch.__version__)
