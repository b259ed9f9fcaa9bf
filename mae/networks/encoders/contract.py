"""Contract of an encoder: what the package needs to know of a class of timm's.

An encoder is a module of timm's, as `timm.create_model` builds it.  Its adapter, which has no
state, runs it on the visible patches and describes it; the next class of timm's costs one file with
an adapter, and its name in `registry`.

Patches are what the last tokens describe.  They are hidden or visible one by one, or, in networks
of several resolutions, by mask units of several patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mae.base.errors import UserError

AnyEncoder = TypeVar("AnyEncoder", bound=nn.Module)


class EncoderShape(NamedTuple):
    """Sizes of an encoder."""

    img_size: tuple[int, int]
    """height and width of the images in pixels"""
    patch_size: tuple[int, int]
    """height and width in pixels of what a token of the last block describes, and the decoder
    predicts"""
    in_chans: int
    embed_dim: int
    """width of the tokens of `forward_features`, and of what the decoder reads"""
    widths: tuple[int, ...]
    """widths of the tensors of `forward_visible`, in their order"""
    num_prefix_tokens: int
    """tokens before those of the patches: class token and registers"""
    has_class_token: bool
    num_heads: int | None
    """attention heads of the last block; None: unknown"""

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (h, w), (p, q) = self.img_size, self.patch_size
        return h // p, w // q

    @property
    def num_patches(self) -> int:
        """Number of patches."""
        rows, columns = self.grid_size
        return rows * columns


class NamedWeights(NamedTuple):
    """Weights under timm's names."""

    tensors: dict[str, Tensor]
    skipped: dict[str, str]
    """name in the source → reason, for tensors that timm's module does not have"""


def add_named(named: dict[str, Tensor], name: str, tensor: Tensor, key: str) -> None:
    """Add the tensor that a source calls `key`; UserError where another has its new name."""
    if name in named:
        raise UserError(
            f"init.from: {key} and another tensor are both {name}: give a file that holds one model"
        )
    named[name] = tensor


class EncoderAdapter(ABC, Generic[AnyEncoder]):
    """Use of one class of timm's as an encoder; without state, so that one object serves all."""

    kind: ClassVar[type[nn.Module]]
    """the class; its subclasses are others"""
    name: ClassVar[str]
    """the class in words"""
    modules: ClassVar[tuple[str, ...]]
    """modules of timm whose functions build models of this class"""
    arguments: ClassVar[Mapping[str, Any]] = {}
    """arguments of `timm.create_model` that are set unless the user sets them"""
    final_norm: ClassVar[str | None]
    """argument of `timm.create_model` that puts the final norm behind the pooling; None: it always
    is there"""
    head: ClassVar[str] = "head"
    """name of the classifier's linear layer"""
    mean: ClassVar[str] = "the mean of the patch tokens"
    """vector "mean" of `split` in words"""
    ordered_code: ClassVar[str] = ""
    """`ordered` as a line of Python for users of timm: from `encoder` and its `tokens`; "": the
    tokens of `forward_features` are ordered and normalised"""
    stem: ClassVar[tuple[str, ...]]
    """first parts of the names of parameters below the blocks"""

    def size_arguments(
        self, patch_size: int | None, given: Mapping[str, Any], name: str
    ) -> dict[str, Any]:
        """Arguments of `timm.create_model` for patches of `patch_size` pixels (None: the model's).

        `given` holds the user's other arguments for the model that timm calls `name`.  Raises
        UserError for a size that the model cannot have.
        """
        return {} if patch_size is None else {"patch_size": patch_size}

    @abstractmethod
    def shape(self, encoder: AnyEncoder) -> EncoderShape:
        """Sizes of `encoder`."""

    def other_parts(self, encoder: AnyEncoder) -> list[str]:
        """Parts in place of the usual ones, in a few words: such models have no use here.

        They complete the sentence "it has …", as those of `refusals` do (default: none).
        """
        return []

    @abstractmethod
    def refusals(self, encoder: AnyEncoder) -> list[str]:
        """Parts of `encoder` that keep patches from being left out, in a few words; empty: none.

        They complete the sentence "it has …".
        """

    @abstractmethod
    def initialize(self, encoder: AnyEncoder) -> None:
        """Draw initial weights as in the paper (He et al. 2021, appendix A.1)."""

    def unit_size(self, encoder: AnyEncoder) -> tuple[int, int]:
        """Height and width in pixels of what is hidden or visible as a whole (default: a patch)."""
        return self.shape(encoder).patch_size

    def mask_units(self, encoder: AnyEncoder) -> Int[Tensor, "units patches"]:
        """Patches of each unit that is hidden or visible as a whole (default: single patches)."""
        return torch.arange(self.shape(encoder).num_patches)[:, None]

    @abstractmethod
    def forward_visible(
        self,
        encoder: AnyEncoder,
        visible: Float[Tensor, "b k pixels"],
        ids_keep: Int[Tensor, "b k"],
    ) -> list[Float[Tensor, "b _ _"]]:
        """`forward_features` of the visible patches only: tokens after each block or stage.

        `visible` holds the normalised pixels of the patches `ids_keep` in `patchify`'s layout;
        those of a mask unit follow each other, in the order of `mask_units`.  Tokens of the last
        block are [prefix tokens, the patches of `ids_keep`], with the final norm that
        `forward_features` applies, if any, and equal it where all patches are visible.  What
        `fuse` gets of the stages of a hierarchical network is in an order of their own.
        """

    def build_fusion(self, encoder: AnyEncoder) -> nn.Module | None:
        """Layers between encoder and decoder that are trained with both (default: none).

        They map the tensors of `forward_visible` to one, [b, prefix + k, embed_dim]: the fusion of
        the stages of a hierarchical network.  They are no part of the encoder, nor of its exports.
        """
        return None

    def fuse(
        self, encoder: AnyEncoder, fusion: nn.Module, features: Sequence[Float[Tensor, "b _ _"]]
    ) -> Float[Tensor, "b t d"]:
        """The input of the decoder, by the layers of `build_fusion`."""
        return fusion(features)

    def split(
        self, encoder: AnyEncoder, tokens: Float[Tensor, "b t d"]
    ) -> tuple[dict[str, Float[Tensor, "b d"]], Float[Tensor, "b n d"]]:
        """Tokens of `forward_features` → (vectors per image by name, tokens of the patches)."""
        shape = self.shape(encoder)
        patches = tokens[:, shape.num_prefix_tokens :]
        pooled = {"mean": patches.mean(dim=1)}
        if shape.has_class_token:
            pooled["cls"] = tokens[:, 0]
        return pooled, patches

    def by_rows(self, encoder: AnyEncoder) -> Int[Tensor, " patches"]:
        """Numbers of the patches, by rows, among the patch tokens (default: they are by rows)."""
        return torch.arange(self.shape(encoder).num_patches)

    def ordered(
        self, encoder: AnyEncoder, tokens: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        """Tokens of `forward_features`, normalised, patches by rows (default: unchanged)."""
        return tokens

    def maps(
        self,
        encoder: AnyEncoder,
        images: Float[Tensor, "b c h w"],
        layers: Sequence[int],
        *,
        norm: bool = False,
    ) -> list[Float[Tensor, "b d gh gw"]]:
        """Patch tokens after the blocks `layers` (from 0) of whole images, as maps.

        Maps of the stages of a hierarchical network differ in width and resolution.
        """
        module: Any = encoder
        return module.forward_intermediates(
            images, list(layers), norm=norm, intermediates_only=True, output_fmt="NCHW"
        )

    def map_stride(self, encoder: AnyEncoder, layer: int) -> tuple[int, int]:
        """Height and width in pixels of a position of the map after block `layer` (from 0)."""
        return self.shape(encoder).patch_size

    def truncate(self, encoder: AnyEncoder, depth: int) -> None:
        """Remove, in place, the blocks above the first `depth`, and the final norm."""
        module: Any = encoder
        module.prune_intermediate_layers([depth - 1], prune_norm=True, prune_head=False)

    def pooling(self, encoder: AnyEncoder) -> str:
        """Pooling of tokens to one vector by its name in timm: token, avg …; "" for none."""
        module: Any = encoder
        return module.global_pool

    def blocks(self, encoder: AnyEncoder) -> Sequence[nn.Module]:
        """Blocks, first to last."""
        module: Any = encoder
        return list(module.blocks)

    def layer_of(self, encoder: AnyEncoder, name: str) -> int:
        """Layer of a parameter: 0 below the blocks, i + 1 in block i, depth + 1 above."""
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in self.stem else len(self.blocks(encoder)) + 1

    def resize(self, encoder: AnyEncoder, img_size: tuple[int, int]) -> None:
        """Take images of another size, a multiple of the patch size, in place, as timm does it."""
        module: Any = encoder
        module.set_input_size(img_size=img_size)

    def released_names(self, encoder: AnyEncoder, tensors: Mapping[str, Tensor]) -> NamedWeights:
        """Weights under the names of their releases → under timm's (default: unchanged).

        Names that are known to neither stay as they are.  Raises UserError for two tensors of one
        name.
        """
        return NamedWeights(dict(tensors), {})

    def beyond_tensors(self, encoder: AnyEncoder) -> dict[str, Any]:
        """Options that change the outputs and that no tensor holds: name in words → value.

        Rotary positions, for example (default: none, empty).
        """
        return {}

    def position_grid(self, encoder: AnyEncoder) -> tuple[int, int]:
        """Rows and columns of the absolute positions (default: the patches')."""
        return self.shape(encoder).grid_size

    def position_prefix(self, encoder: AnyEncoder) -> int:
        """Number of absolute positions before those of the image (default: none)."""
        return 0

    def undecayed(self, encoder: AnyEncoder) -> set[str]:
        """Names of parameters that are exempt from weight decay besides the one-dimensional."""
        module: Any = encoder
        return set(module.no_weight_decay())

    @abstractmethod
    def timm_arguments(self, encoder: AnyEncoder) -> dict[str, Any]:
        """Arguments of `timm.create_model` for these sizes and norms, for config.json of exports.

        The pooling is no part of it.
        """
