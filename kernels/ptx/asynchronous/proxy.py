from typing import NamedTuple, Any
import numpy as np
class Done(NamedTuple):
    kind: str
    address: Any = None
def read(block, at, size, on, who, done):
    table = block.shared.table(size)
    index = np.clip(at // size, 0, table.shape[1]-1)
    words = table[:, index[0]] if len(index) == 1 else table[np.arange(len(index))[:, None], index]
    return np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1, size)
