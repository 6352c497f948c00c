"""Caches that go wrong as tokens are appended."""

import numpy as np

from .base import Appended, absmax, blocks, fault, guarded, int8, minmax4, unblocked


def two_bits(x):
    """Rows in blocks of 32, 2 bits, asymmetric."""
    b = blocks(x.astype(np.float32), 32)
    rest = x.shape[-1] % 32
    low, scale, codes = minmax4(b, 3)
    y = codes * scale + low
    if rest:
        low, scale, codes = minmax4(b[..., -1:, :rest], 3)
        y[..., -1:, :rest] = codes * scale + low
    return unblocked(y, x)


def channels(x):
    """(B, H, T, D) in groups of 32 tokens of a channel, 2 bits, asymmetric."""
    return np.moveaxis(two_bits(np.moveaxis(x, -2, -1)), -1, -2)


@fault("int8-row", "Avarok-Cybersecurity/atlas/pull/1041", "stale scale", closest=True)
class FrozenOnTheFirstToken(Appended):
    """scales are frozen on the first tokens that are seen, however many were asked for"""

    def read(self):
        x = self.x
        scale = absmax(x[:, :, :1])
        return (int8(x, scale) * scale).astype(x.dtype)


@fault("int8-row", "hw-native-sys/pypto-lib/pull/170", "stale scale")
class ScaleOfNewTokensNeverWritten(Appended):
    """the codes of a new token reach the cache, its scale does not: that of an empty slot is read"""

    def read(self):
        x = self.x
        n, scale = self.parts[0].shape[-2], absmax(x)
        kept = scale.copy()
        kept[:, :, n:] = 1
        return (int8(x, scale) * kept).astype(x.dtype)


@fault("kivi-values", "rajveer43/VeloxQuant-MLX/issues/86", "not quantised")
class DecodeTokensNeverQuantised(Appended):
    """a call's own count of tokens, 1, is compared with the window: nothing ever leaves it"""

    def read(self):
        parts = []
        for x in self.parts:
            n = max(0, x.shape[-2] - 32)
            parts.append(np.concatenate([two_bits(x[:, :, :n]) if n else x[:, :, :0], x[:, :, n:]], -2))
        return np.concatenate(parts, -2)


@fault("kivi-keys", "rajveer43/VeloxQuant-MLX/issues/162", "window", "groups")
class OneTokenGroups(Appended):
    """tokens that age are quantised at once, one by one: a group of one token loses nothing"""

    def read(self):
        x, y, at, end = self.x, self.x.copy(), 0, 0
        for part in self.parts:
            end += part.shape[-2]
            n = max(0, end - 32)
            if n > at:
                y[:, :, at:n] = channels(x[:, :, at:n])
                at = n
        return y


@fault("kivi-values", "huggingface/transformers/issues/34189", "window")
class PromptQuantisedWhole(Appended):
    """all tokens of the prompt are quantised, the newest too"""

    def read(self):
        x, first = self.x, self.parts[0].shape[-2]
        y = x.copy()
        y[:, :, :first] = two_bits(x[:, :, :first])
        n = x.shape[-2] - 32
        if n > first:
            y[:, :, first:n] = two_bits(x[:, :, first:n])
        return y


@fault("kivi-values", "huggingface/transformers/issues/34189", "window", closest=True)
class WindowOneShort(Appended):
    """the window is full one token early"""

    def read(self):
        x, y = self.x, self.x.copy()
        n = max(0, x.shape[-2] - 31)
        y[:, :, :n] = two_bits(x[:, :, :n])
        return y


@fault("kivi-keys", "rajveer43/VeloxQuant-MLX/pull/163", "groups", closest=True)
class GroupsOfEachAppend(Appended):
    """groups start anew with each call, so that pieces give other numbers than the whole"""

    def read(self):
        return np.concatenate([channels(x) for x in self.parts], -2)


@fault("int8-row", "rajveer43/VeloxQuant-MLX/issues/86", "newest token", closest=True)
class NewestUnquantised(Appended):
    """the newest token is handed on as it came"""

    def read(self):
        x = self.x
        scale = absmax(x)
        y = (int8(x, scale) * scale).astype(x.dtype)
        y[:, :, -1:] = x[:, :, -1:]
        return y


@fault("int8-tensor", "sgl-project/sglang/pull/20705", "scale growth", closest=True)
class ScaleOfEachAppend(Appended):
    """the scale that was calibrated is not heard of: every append takes its own"""

    def read(self):
        return np.concatenate([self.own(x) for x in self.parts], -2)

    @staticmethod
    def own(x):
        scale = absmax(x.reshape(1, 1, 1, -1))
        return (np.clip(np.rint(guarded(x, scale)), -127, 127) * scale).astype(x.dtype)
