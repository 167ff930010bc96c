"""Every family keeps the contract."""

from __future__ import annotations

from search_spaces.bert import Bert
from search_spaces.hat import HatTransformer
from search_spaces.ofa_networks import OfaMobilenetV3, OfaProxyless
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.supernet import Family
from search_spaces.vit import ViT
from tests.contracts.family_contract import FamilyContract
from tests.search_spaces.nets import small_mlp, small_mobilenet


class TestMLP(FamilyContract):
    def family(self) -> Family:
        return small_mlp()


class TestMobileNet(FamilyContract):
    def family(self) -> Family:
        return small_mobilenet(resolutions=(5, 9))


class TestOfaMobilenetV3(FamilyContract):
    def family(self) -> Family:
        return OfaMobilenetV3(preset="tiny", n_classes=3, resolutions=(13, 16))


class TestOfaProxyless(FamilyContract):
    def family(self) -> Family:
        return OfaProxyless(preset="tiny", n_classes=3)


class TestOfaResNet50(FamilyContract):
    def family(self) -> Family:
        return OfaResNet50(preset="tiny", n_classes=3, resolutions=(13, 16))


class TestBert(FamilyContract):
    def family(self) -> Family:
        return Bert(preset="tiny", vocab_size=50, max_tokens=20, tokens=7)


class TestPublishedViT(FamilyContract):
    def family(self) -> Family:
        return ViT(preset="tiny", n_classes=3)


class TestTorchvisionViT(FamilyContract):
    def family(self) -> Family:
        return ViT(preset="tiny", n_classes=3, layout="torchvision")


class TestHuggingFaceViT(FamilyContract):
    def family(self) -> Family:
        return ViT(preset="tiny", n_classes=3, layout="huggingface")


class TestHatTransformer(FamilyContract):
    def family(self) -> Family:
        return HatTransformer(preset="tiny", vocab_size=23, source_tokens=6, target_tokens=5, max_tokens=16)
