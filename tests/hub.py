"A hub of one data set on this machine: what `datasets` asks of one, and the ways in which a server fails."
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = 'a' * 40


class Hub(BaseHTTPRequestHandler):
    files, missing, failing = {}, set(), 0   # path: bytes; paths that are listed and not there; requests of files still to fail

    def log_message(self, *args): pass

    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def listing(self, below):
        if not below: return [dict(type='directory', path='data', oid=COMMIT, size=0)]
        return [dict(type='file', path=p, size=len(b), oid=hashlib.sha1(b).hexdigest()) for p, b in self.files.items()]

    def file(self, path):
        if path not in self.files or path in self.missing: return self.answer(404, X_Error_Code='EntryNotFound')
        if self.command == 'GET' and Hub.failing:
            Hub.failing -= 1
            return self.answer(500)
        body, asked = self.files[path], re.match(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        start, end = (int(asked[1]), int(asked[2] or len(body) - 1)) if asked else (0, len(body) - 1)
        self.answer(206 if asked else 200, body[start:end + 1], ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT,
                    Accept_Ranges='bytes', Content_Range=f'bytes {start}-{end}/{len(body)}')

    def do_GET(self):
        path = self.path.partition('?')[0]
        if '/goat/set' not in path: return self.answer(404, b'{}', X_Error_Code='RepoNotFound')
        if found := re.search(r'/resolve/[^/]+/(.*)', path): return self.file(found[1])
        found = re.search(r'/tree/[^/]+/?(.*)', path)
        about = dict(id='goat/set', sha=COMMIT, private=False, gated=False, disabled=False, downloads=0, likes=0, tags=[],
                     siblings=[dict(rfilename=p) for p in self.files])
        self.answer(200, json.dumps(self.listing(found[1]) if found else about).encode(), Content_Type='application/json')

    do_HEAD = do_GET


def serve():   # Address
    "Start the hub"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}'
