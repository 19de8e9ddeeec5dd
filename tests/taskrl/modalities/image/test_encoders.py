"""Every encoder one may name trains at its smallest size, on grey and on colour images."""

import pytest
import torch
from torch import Tensor
from torchvision import models

from taskrl.errors import ConfigError
from taskrl.modalities.image.encoders import ENCODERS, make_encoder
from taskrl.modalities.image.modeling import Encoder, MeanMaxPool, SmallNet, build_encoder


def make(name: str, *, in_channels: int = 1, image_size: int = 28, width: int = 8, seed: int = 0) -> Encoder:
    mean, std = [0.4] * in_channels, [0.25] * in_channels
    return make_encoder(
        name, in_channels=in_channels, image_size=image_size, width=width, mean=mean, std=std, seed=seed
    )[0]


def random_images(num_images: int, in_channels: int, size: int) -> Tensor:
    return torch.rand(num_images, in_channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ENCODERS.names())
def test_every_encoder_trains_on_grey_images_of_its_smallest_size_and_on_small_colour_images(name: str) -> None:
    for in_channels, size in ((1, ENCODERS[name].min_image_size), (3, 32)):
        encoder = make(name, in_channels=in_channels, image_size=size)
        images = random_images(2, in_channels, size)
        features, feature_map = encoder(images), encoder.feature_map(images)
        assert features.shape == (2, encoder.feature_dim)
        assert feature_map.shape[:2] == (2, encoder.feature_dim)
        features.square().sum().backward()
        gradients = {key: parameter.grad for key, parameter in encoder.named_parameters()}
        assert [key for key, gradient in gradients.items() if gradient is None] == []
        assert all(bool(gradient.isfinite().all()) for gradient in gradients.values() if gradient is not None)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in ("small", "vgg11_bn")])
def test_torchvision_encoders_share_torchvisions_names_and_shapes_except_the_classifier(name: str) -> None:
    ours = make(name, in_channels=3, image_size=96).backbone.state_dict()
    theirs = models.get_model(name, weights=None).state_dict()
    assert {key: value.shape for key, value in ours.items()}.items() <= {k: v.shape for k, v in theirs.items()}.items()
    assert all(key.startswith(("fc.", "classifier.")) for key in theirs.keys() - ours.keys())


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "densenet121", "shufflenet_v2_x0_5"])
def test_features_are_what_torchvision_feeds_its_classifier(name: str) -> None:
    ours = make(name, in_channels=3, image_size=96).eval()
    theirs = models.get_model(name, weights=None).eval()
    theirs.load_state_dict(ours.backbone.state_dict(), strict=False)
    classifier = theirs.fc if hasattr(theirs, "fc") else theirs.classifier
    linear = classifier[-1] if isinstance(classifier, torch.nn.Sequential) else classifier
    seen: list[Tensor] = []
    linear.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images = random_images(2, 3, 96)
    with torch.no_grad():
        theirs((images - 0.4) / 0.25)
        torch.testing.assert_close(ours(images), seen[0], atol=1e-5, rtol=1e-5)


def test_resnets_get_the_small_stem_up_to_64_pixels() -> None:
    assert make("resnet18", image_size=64).feature_map(random_images(2, 1, 64)).shape[2:] == (8, 8)
    assert make("resnet18", image_size=65).feature_map(random_images(2, 1, 64)).shape[2:] == (2, 2)


def test_small_net_keeps_a_7x7_map_of_a_28x28_image_and_scales_with_width_and_blocks() -> None:
    encoder = make("small", width=8)
    assert encoder.feature_map(random_images(2, 1, 28)).shape == (2, 32, 7, 7)
    deeper = SmallNet(in_channels=1, width=8, blocks=(1, 1, 1))
    assert deeper.feature_map(random_images(2, 1, 28).float()).shape == (2, 32, 4, 4)


def test_pooled_features_of_the_small_net_are_mean_plus_maximum_of_the_map() -> None:
    encoder, images = make("small").eval(), random_images(3, 1, 28)
    cells = encoder.feature_map(images)
    torch.testing.assert_close(encoder(images), cells.mean(dim=(2, 3)) + cells.amax(dim=(2, 3)))


def test_no_dropout_and_no_stochastic_depth_remain() -> None:
    for name in ENCODERS:
        if name == "vgg11_bn":  # its dropout is in the classifier; slow to build
            continue
        for module in make(name, image_size=32).modules():
            assert not isinstance(module, torch.nn.Dropout)
            assert getattr(module, "p", 0.0) == 0.0  # torchvision's StochasticDepth


def test_uint8_images_are_those_in_0_to_1() -> None:
    encoder = make("small").eval()
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encoder(images), encoder(images / 255))


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 28, 28), torch.zeros(3, 28, 28)])
def test_images_of_another_shape_are_refused_instead_of_broadcast(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        make("small", in_channels=3)(images)


def test_integer_images_other_than_uint8_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        make("small")(torch.zeros(2, 1, 28, 28, dtype=torch.int64))


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v2"])
def test_same_seed_same_weights_and_another_seed_others(name: str) -> None:
    first, second, third = (make(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_making_an_encoder_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    make("small")
    make("mobilenet_v3_small")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_configuration_rebuilds_the_encoder() -> None:
    for name in ("small", "resnet18", "squeezenet1_1"):
        encoder, config = make_encoder(name, in_channels=1, image_size=28, width=8, mean=[0.3], std=[0.2], seed=0)
        again = build_encoder(config)
        again.load_state_dict(encoder.state_dict())
        images = random_images(2, 1, 28)
        assert torch.equal(encoder.eval()(images), again.eval()(images))
        assert config["feature_dim"] == again.feature_dim


def test_an_unknown_name_is_refused_in_one_sentence_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown encoder 'resnet81'; known: .*small.* Did you mean 'resnet18'\?"):
        make("resnet81")
    with pytest.raises(ConfigError, match="Unknown encoder 'vit_b_16'"):
        make("vit_b_16")


def test_images_too_small_for_an_encoder_are_refused_with_the_minimum() -> None:
    with pytest.raises(ConfigError, match="'densenet121' needs images of at least 32 pixels a side, not 28"):
        make("densenet121", image_size=28)


@pytest.mark.parametrize(
    ("in_channels", "mean", "std", "width"),
    [(2, [0.5] * 2, [0.2] * 2, 8), (3, [0.5], [0.2], 8), (1, [0.5], [0.0], 8), (1, [0.5], [0.2], 0)],
)
def test_channels_and_statistics_that_do_not_fit_are_refused(
    in_channels: int, mean: list[float], std: list[float], width: int
) -> None:
    with pytest.raises(ConfigError):
        make_encoder("small", in_channels=in_channels, image_size=28, width=width, mean=mean, std=std, seed=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooling_is_mean_plus_maximum_with_torchs_gradient_also_where_maxima_are_equal(dtype: torch.dtype) -> None:
    values = torch.randint(0, 4, (6, 9, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    pooled, expected = MeanMaxPool.apply(ours)[0], theirs.mean(1) + theirs.amax(1)
    torch.testing.assert_close(pooled, expected)
    weights = torch.linspace(-1, 1, 30, dtype=dtype).view(6, 5)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_pooled_features_are_the_same_with_and_without_gradients() -> None:
    encoder = build_encoder({"architecture": "small", "in_channels": 1, "mean": [0.5], "std": [0.2], "width": 8})
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = encoder.eval()(images)
    assert torch.equal(encoder(images), plain)
    assert torch.equal(plain, encoder.feature_map(images).mean((2, 3)) + encoder.feature_map(images).amax((2, 3)))
