"""Detects the format of a weight file from its content, not its name, and reads it.

safetensors files begin with the length of a JSON header; PyTorch's are zip archives of a pickle,
or, before 1.6, bare pickles. Pickles are read with `weights_only=True`: no code in them runs.
"""

import contextlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from stsa_jax.errors import InputError

# Keys under which programs store the weights in a checkpoint, in order of preference.
KEYS = (
    'state_dict', 'model_state_dict', 'model', 'model_state', 'net', 'network', 'params', 'weights',
    'module', 'generator', 'ema', 'model_ema', 'ema_state_dict', 'state_dict_ema', 'params_ema',
)  # fmt: skip
ENDINGS = ('.pth', '.pt', '.ckpt', '.bin', '.tar', '.pkl', '.pickle')
_OTHERS = (
    (b'version https://git-lfs', 'a Git LFS pointer, not the file itself', 'run `git lfs pull`'),
    (b'\x89HDF', "an HDF5 file, as Keras and MATLAB write, not PyTorch's", 'give a PyTorch file'),
    (b'\x1f\x8b', 'a gzip archive', 'unpack it first'),
    (b'BZh', 'a bzip2 archive', 'unpack it first'),
    (b'\xfd7zXZ', 'an xz archive', 'unpack it first'),
    (b'7z\xbc\xaf', 'a 7z archive', 'unpack it first'),
    (b'Rar!', 'a RAR archive', 'unpack it first'),
)


def read(path: Path) -> tuple[Any, dict[str, str]]:
    """The raw content of a weight file, and the metadata of a safetensors file.

    Raises InputError that names the file if it is neither a PyTorch nor a safetensors file.
    """
    with open(path, 'rb') as file:
        start = file.read(1024)
    if not start:
        raise InputError(f'{path}: is empty; copy or download it again')
    for signature, what, advice in _OTHERS:
        if start.startswith(signature):
            raise InputError(f'{path}: is {what}; {advice}')
    if re.match(rb'\s*<(!doctype|html|\?xml)', start, re.IGNORECASE):
        raise InputError(
            f'{path}: is a web page, not weights; the site returned a page instead of the file. '
            'Download the file itself'
        )
    if start[257:262] == b'ustar':
        raise InputError(f'{path}: is a tar archive of files; unpack it first')
    if start[8:9] == b'{' or path.suffix == '.safetensors':
        return _read_safetensors(path)
    known = start.startswith((b'PK\x03\x04', b'\x80'))
    if not known and not path.name.lower().endswith(ENDINGS):
        raise InputError(
            f'{path}: expected PyTorch or safetensors weights or a checkpoint folder, found a '
            f'file with extension {path.suffix or "none"!r} that begins with {start[:12]!r}'
        )
    return _read_torch(path), {}


def torch_module(path: Path) -> Any:
    """The module `torch`. Raises InputError that explains how to install it."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{path}: PyTorch is needed for .pth and .pt files; install it with '
            "pip install -e '.[port]' in the checkout, or use a .safetensors file"
        ) from error
    return torch


def _read_safetensors(path: Path) -> tuple[dict, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise InputError(
            f'{path}: a damaged or incomplete safetensors file ({error}); copy or download it again'
        ) from error


def _read_torch(path: Path) -> Any:
    names = _names_in_zip(path)
    if names and not any(name.endswith('data.pkl') for name in names):
        raise InputError(
            f"{path}: is a zip archive of {', '.join(names[:3])}, not PyTorch's; unpack it first"
        )
    if any(name.endswith('/constants.pkl') for name in names):
        raise InputError(
            f'{path}: is a TorchScript archive, a program with its weights; save a state dict from '
            f'it:\n  python -c "import torch; torch.save(torch.jit.load({str(path)!r}, '
            "map_location='cpu').state_dict(), 'weights.pth')\""
        )
    torch = torch_module(path)
    try:
        with _numpy_scalars(torch), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about old formats; real problems raise
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        text = re.sub(r'\x1b\[[0-9;]*m', '', str(error)).strip() or repr(error)
        if code := re.search(r'GLOBAL (\S+)', text):
            raise InputError(_needs_code(path, code[1])) from None
        inner = re.search(r'WeightsUnpickler error: (.*)', text)
        reason = (inner[1].strip() if inner else '') or text.splitlines()[0]
        raise InputError(
            f'{path}: damaged, incomplete, or not a PyTorch file of weights only ({reason[:200]}); '
            'copy or download it again; files that need code to be read are refused'
        ) from None


@contextlib.contextmanager
def _numpy_scalars(torch: Any) -> Iterator[None]:
    """Allows only NumPy scalars in addition, such as a loss or an epoch beside the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(c)) for c in np.typecodes['AllFloat'] + np.typecodes['AllInteger'] + '?'}
    names = [(scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')]
    with torch.serialization.safe_globals([*names, np.dtype, *kinds]):
        yield


def _names_in_zip(path: Path) -> list[str]:
    """The files in a zip archive; empty if it is incomplete or not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def _needs_code(path: Path, code: str) -> str:
    """The message about a pickle with more than tensors, and how to save the weights from it."""
    whole, strings = _outline(path)
    key = next((key for key in KEYS if key in strings), 'state_dict')
    what = (
        f'is a whole pickled model ({code}), not a state dict'
        if whole
        else f'has {code} objects beside the weights'
    )
    weights = 'found.state_dict()' if whole else f'found[{key!r}]'
    return (
        f'{path}: {what}; reading it would run code, so it is refused. Where that code is '
        f'installed, and if you trust the file, save only the weights:\n  '
        f'python -c "import torch; found = '
        f"torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        f"torch.save({weights}, 'weights.pth')\""
    )


def _outline(path: Path) -> tuple[bool, set[str]]:
    """Whether a pickle holds an object instead of a dict, and its strings; no code runs."""
    strings: set[str] = set()
    first = ''
    try:
        with contextlib.ExitStack() as stack:
            for operation, argument, _ in pickletools.genops(_pickle_of(path, stack)):
                if isinstance(argument, str):
                    strings.add(argument)
                if operation.name not in ('PROTO', 'FRAME') and not first:
                    first = f'{operation.name} {argument}'
    except (ValueError, OSError, KeyError, EOFError):
        pass  # damaged further on; the part read so far suffices
    of_a_dict = first.startswith('EMPTY_DICT') or 'OrderedDict' in first
    return bool(first) and not of_a_dict, strings


def _pickle_of(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    """The pickle inside a PyTorch file, at its start."""
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        name = next(n for n in archive.namelist() if n.endswith('data.pkl'))
        return stack.enter_context(archive.open(name))
    file = stack.enter_context(path.open('rb'))
    for _ in range(3):  # magic number, version, machine
        for _ in pickletools.genops(file):
            pass
    return file
