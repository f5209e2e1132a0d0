"""A Hugging Face Hub on this machine that keeps repositories in memory, for huggingface_hub.

It serves what `push_to_hub` and `snapshot_download` ask for: creating a repository, committing
files, and reading them at a branch or commit.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class LocalHub(BaseHTTPRequestHandler):
    """`repositories`: name -> commit or branch -> path -> content."""

    repositories: dict

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        path = unquote(self.path.partition('?')[0])
        if path == '/api/validate-yaml':
            return self.answer({'errors': [], 'warnings': []})
        if self.headers.get('Authorization') != 'Bearer hf_known':
            return self.answer({'error': 'Invalid credentials'}, 401)
        if path == '/api/repos/create':
            given = json.loads(body)
            name = f'{given["organization"]}/{given["name"]}' if given.get('organization') else ''
            self.repositories.setdefault(name, {'main': {}})
            host = f'http://127.0.0.1:{self.server.server_port}'
            return self.answer({'url': f'{host}/{name}', 'id': name})
        name, what, branch = re.fullmatch(
            r'/api/models/(\S+?)/(preupload|commit)/(.*)', path
        ).groups()
        if what == 'preupload':
            files = [{'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                     for f in json.loads(body)['files']]  # fmt: skip
            return self.answer({'files': files})
        commit = hashlib.sha1(body).hexdigest()
        files = dict(self.repositories[name][branch])
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                files[line['value']['path']] = base64.b64decode(line['value']['content'])
        self.repositories[name] |= {branch: files, commit: files}
        self.repositories[name]['heads'] = {branch: commit}
        url = f'http://127.0.0.1:{self.server.server_port}/{name}/commit/{commit}'
        return self.answer(
            {'success': True, 'commitUrl': url, 'commitOid': commit, 'hookOutput': ''}
        )

    def do_GET(self):
        path = unquote(self.path.partition('?')[0])
        api = re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(?:/.*)?', path)
        name, revision = (api[1], api[3]) if api else ('', '')
        resolved = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        if resolved:
            name, revision, file = resolved.groups()
        revision = revision or 'main'
        if name not in self.repositories:
            return self.answer({'error': 'x'}, 404, [('X-Error-Code', 'RepoNotFound')])
        files = self.repositories[name].get(revision)
        if files is None:
            return self.answer({'error': 'x'}, 404, [('X-Error-Code', 'RevisionNotFound')])
        heads = self.repositories[name].get('heads', {})
        commit = ('X-Repo-Commit', heads.get(revision, revision))
        if resolved:
            if file not in files:
                return self.answer({}, 404, [('X-Error-Code', 'EntryNotFound'), commit])
            etag = ('ETag', f'"{hashlib.sha1(files[file]).hexdigest()}"')
            return self.answer(files[file], headers=[etag, commit])
        if api[2] == 'tree':
            return self.answer(
                [{'type': 'file', 'path': f, 'size': len(c), 'oid': hashlib.sha1(c).hexdigest()}
                 for f, c in files.items()]
            )  # fmt: skip
        siblings = [{'rfilename': file} for file in files]
        return self.answer({'id': name, 'sha': commit[1], 'siblings': siblings, 'tags': []})

    do_HEAD = do_GET


def start():
    """A server on a free port, and its repositories."""
    handler = type('Handler', (LocalHub,), {'repositories': {}})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server, handler.repositories
