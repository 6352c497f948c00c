"""Torch quantisers, right and wrong, named on command lines too."""

import torch


def scale_of(x):
    return x.float().abs().amax(-1, keepdim=True) / 127


def right(x):
    s = scale_of(x)
    return (torch.where(s > 0, x.float() / s, 0.0).round().clamp(-127, 127) * s).to(x.dtype)


def truncating(x):
    s = scale_of(x)
    return (torch.where(s > 0, x.float() / s, 0.0).trunc() * s).to(x.dtype)


def broken(x):
    raise RuntimeError("no such kernel")


class Parts:
    """Codes and scales apart."""

    factor = 1.0

    @staticmethod
    def quantise(x):
        s = scale_of(x)
        return torch.where(s > 0, x.float() / s, 0.0).round().clamp(-127, 127).nan_to_num().to(torch.int8), s

    @classmethod
    def dequantise(cls, codes, s):
        return codes * s * cls.factor


class Microscaled:
    """OCP's mxfp8, right: elements, and the exponent of each block of 32 as its byte."""

    @staticmethod
    def quantise(x):
        if x.shape[-1] % 32:
            raise ValueError("no whole blocks")
        blocks = x.double().reshape(*x.shape[:-1], -1, 32)
        exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 8
        byte = (exponent.clamp(-127, 127) + 127).nan_to_num().to(torch.uint8)
        codes = (blocks / torch.exp2(byte.double() - 127)[..., None]).clamp(-448, 448)
        return codes.float().to(torch.float8_e4m3fn), byte

    @staticmethod
    def dequantise(codes, byte):
        return (codes.double() * torch.exp2(byte.double() - 127)[..., None]).flatten(-2).float()


class MicroscaledAsE8m0(Microscaled):
    """The same, its scales as torch's float8_e8m0fnu."""

    @staticmethod
    def quantise(x):
        codes, byte = Microscaled.quantise(x)
        return codes, byte.view(torch.float8_e8m0fnu)

    @staticmethod
    def dequantise(codes, scale):
        return Microscaled.dequantise(codes, scale.view(torch.uint8))


class Guarded(Parts):
    """Rows of zeros have scale 1, and are zeros."""

    @staticmethod
    def quantise(x):
        s = scale_of(x)
        s = torch.where(s == 0, 1.0, s)
        return (x.float() / s).round().clamp(-127, 127).nan_to_num().to(torch.int8), s


class OneExponentUp(Microscaled):
    """The stored byte is one more than what codes are read with."""

    @staticmethod
    def quantise(x):
        codes, byte = Microscaled.quantise(x)
        return codes, byte + 1

    @staticmethod
    def dequantise(codes, byte):
        return Microscaled.dequantise(codes, byte - 1)


class Doubled(Parts):
    """Reads twice what was stored."""

    factor = 2.0


class RightCache:
    """Appended rows, quantised once."""

    def __init__(self):
        self.rows = []

    def append(self, x):
        self.rows.append(self.trip(x))

    def trip(self, x):
        return right(x)

    def read(self):
        return torch.cat(self.rows, dim=2)


class StaleCache(RightCache):
    """The first row's scale for all."""

    first = None

    def trip(self, x):
        s = self.first = scale_of(x[:, :, :1]) if self.first is None else self.first
        return (torch.where(s > 0, x.float() / s, 0.0).round().clamp(-127, 127) * s).to(x.dtype)
