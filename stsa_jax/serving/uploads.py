"""Multipart bodies (RFC 7578): a file straight to the disk, and short fields."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

_FIELD_BYTES = 1000  # of a field that is not the file, or of a header
_FIELDS = 20
_REST_BYTES = 100_000  # of the form without the file


class BadUpload(ValueError):
    """Not a form with a file, for the reason given."""


class TooLarge(ValueError):
    """The file is larger than allowed."""


class Form:
    """Takes a form piece by piece; writes the file of its field `video` to `path`.

    Attributes:
        filename: the file's, as its sender calls it; '' before the file was seen.
        fields: the other fields.
        size: of the file so far, in bytes.
    """

    def __init__(self, content_type: str, path: Path, limit: int):
        """Raises BadUpload if `content_type` is not that of a form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b'boundary', b'')
        if kind != b'multipart/form-data' or not boundary:
            raise BadUpload('send a form, multipart/form-data, with a video in its field "video"')
        self.filename, self.size = '', 0
        self.fields: dict[str, str] = {}
        self._path, self._limit = path, limit
        self._file: BinaryIO | None = None
        self._header, self._value = b'', b''
        self._headers: dict[bytes, bytes] = {}
        self._name, self._content, self._ended = '', b'', False
        self._parser = MultipartParser(
            boundary,
            {
                'on_part_begin': self._begin,
                'on_header_field': self._header_field,
                'on_header_value': self._header_value,
                'on_header_end': self._header_end,
                'on_headers_finished': self._headers_finished,
                'on_part_data': self._data,
                'on_part_end': self._part_end,
                'on_end': self._end,
            },
        )

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Reads the whole body. Raises BadUpload or TooLarge."""
        received = 0
        try:
            async for chunk in body:
                received += len(chunk)
                if received > self._limit + _REST_BYTES:
                    raise TooLarge
                if chunk:
                    self._parser.write(chunk)
            self._parser.finalize()
        except (MultipartParseError, UnicodeError) as error:
            raise BadUpload(f'the form cannot be read: {error}') from error
        finally:
            if self._file:
                self._file.close()
        if not self._ended:
            raise BadUpload('the form breaks off: was the upload interrupted?')
        if not self._file:
            raise BadUpload('the form has no file in its field "video"')

    def _begin(self) -> None:
        self._headers, self._content, self._name = {}, b'', ''

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _FIELD_BYTES or len(self._headers) > _FIELDS:
            raise BadUpload(f'a header of the form is longer than {_FIELD_BYTES} bytes')

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b'', b''

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b'content-disposition', b''))
        self._name = options.get(b'name', b'').decode()
        if self._name == 'video':
            if self._file:
                raise BadUpload('the form has two files; send one a request')
            given = options.get(b'filename', b'').decode(errors='replace')
            shown = ''.join(c for c in given if c.isprintable()).replace('\\', '/')
            self.filename = shown.rsplit('/', 1)[-1][-200:] or 'video'
            self._file = open(self._path, 'xb')  # noqa: SIM115 (`read` closes it)
        elif len(self.fields) >= _FIELDS:
            raise BadUpload(f'the form has more than {_FIELDS} fields')

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == 'video' and self._file:
            self.size += end - start
            if self.size > self._limit:
                raise TooLarge
            self._file.write(data[start:end])
        else:
            self._content += data[start:end]
            if len(self._content) > _FIELD_BYTES:
                raise BadUpload(f'field {self._name!r} is longer than {_FIELD_BYTES} bytes')

    def _part_end(self) -> None:
        if self._name != 'video':
            self.fields[self._name] = self._content.decode()

    def _end(self) -> None:
        self._ended = True
