"""Shape annotations: jaxtyping where it is installed (development), plain tensors elsewhere."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
    from torch import Tensor
else:
    from torch import Tensor

    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Shape:
            """Stands for a jaxtyping dtype: `Float[Tensor, "b c"]` reads as `Tensor`."""

            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = UInt8 = _Shape

__all__ = ["Bool", "Float", "Int", "Tensor", "UInt8"]
