import pytest
import torch

from taskrl.errors import ConfigError
from taskrl.predictor.heads import build_head
from taskrl.types import HeadSpec
from tests.builders import generator


def test_an_mlp_is_linear_relu_linear_of_the_given_sizes() -> None:
    head = build_head(HeadSpec(kind="mlp", in_dim=5, hidden_dim=7, out_dim=3), map_scale=4)
    first, second = head[0], head[2]  # type: ignore[index]
    x = torch.randn((2, 5), generator=generator())
    expected = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(head(x), expected)
    assert expected.shape == (2, 3) and first.out_features == 7


@pytest.mark.parametrize("scale", [1, 4])
def test_a_map_decoder_writes_scale_times_the_resolution_of_the_map(scale: int) -> None:
    head = build_head(HeadSpec(kind="map_decoder", in_dim=5, hidden_dim=7, out_dim=3), map_scale=scale)
    assert head(torch.zeros(2, 5, 7, 8)).shape == (2, 3, 7 * scale, 8 * scale)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown head kind 'mpl'.* Did you mean 'mlp'\?"):
        build_head(HeadSpec(kind="mpl", in_dim=1, out_dim=1), map_scale=1)
