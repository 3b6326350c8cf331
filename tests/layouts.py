"""Tensors with the same numbers in other places of the memory: slices, transposes, odd strides, unaligned storage."""

LAYOUTS = ("contiguous", "sliced", "transposed", "offset", "odd strides")


def with_layout(x, layout):
    """Return a tensor with the numbers of `x` in new memory of another layout, without a gradient."""
    x = x.detach()
    if layout == "sliced":
        memory = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
        return memory[..., 1::2].copy_(x)
    if layout == "transposed":
        reverse = tuple(range(x.ndim))[::-1]
        return x.permute(reverse).contiguous().permute(reverse)
    if layout == "offset":  # the memory begins one number after a multiple of a SIMD vector
        return x.new_zeros(x.numel() + 1)[1:].view(x.shape).copy_(x)
    if layout == "odd strides":  # an axis of size 1 may have any stride
        strides = [3 if size == 1 else stride for size, stride in zip(x.shape, x.contiguous().stride(), strict=True)]
        return x.clone().contiguous().as_strided(x.shape, strides)
    return x.clone().contiguous()
