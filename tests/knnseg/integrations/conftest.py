"""As much of Label Studio's API as the ML backend asks for; the real one is in tests/tools."""

import http.server
import io
import json
import threading
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

PERSONAL = "abc.def.ghi"


class FakeLabelStudio(http.server.ThreadingHTTPServer):
    """Tasks and images in memory; a personal token holds for so many requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tasks, self.images, self.asked, self.holds = {}, {}, [], 3
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add_task(self, number, pixels):
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "PNG")
            self.images[f"/data/upload/{number}.png"] = file.getvalue()
        self.tasks[number] = {
            "id": number,
            "project": 1,
            "data": {"image": f"/data/upload/{number}.png"},
            "annotations": [],
        }

    def annotate(self, task, annotation, *shapes, **more):
        """A rectangle of pixels (label, x0, y0, x1, y1) for each shape, drawn as a polygon."""
        pixels = np.asarray(Image.open(io.BytesIO(self.images[f"/data/upload/{task}.png"])))
        h, w = pixels.shape[:2]
        result = []
        for n, (label, x0, y0, x1, y1) in enumerate(shapes):
            points = [[100 * x / w, 100 * y / h] for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
            value = {"points": points, "polygonlabels": [label]}
            result.append(
                {
                    "id": f"r{n}",
                    "to_name": "image",
                    "type": "polygonlabels",
                    "original_width": w,
                    "original_height": h,
                    "value": value,
                }
            )
        kept = [one for one in self.tasks[task]["annotations"] if one["id"] != annotation]
        order = f"2026-01-01T00:00:{len(self.asked):04}"
        self.tasks[task]["annotations"] = [*kept, {"id": annotation, "result": result, "updated_at": order, **more}]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, parts, token = self.server, urlsplit(self.path), self.headers.get("Authorization", "")
        server.asked.append((self.path, token))
        if token not in ("Token legacy", f"Bearer access{server.holds}"):
            return self.answer(401, {})
        if parts.path == "/api/tasks":
            size, page = (int(parse_qs(parts.query)[key][0]) for key in ("page_size", "page"))
            every = [{"id": t["id"], "total_annotations": len(t["annotations"])} for t in server.tasks.values()]
            return self.answer(200, {"tasks": every[(page - 1) * size : page * size]})
        if parts.path.startswith("/api/tasks/"):
            task = server.tasks.get(int(parts.path.split("/")[3]))
            return self.answer(404 if task is None else 200, task or {})
        if parts.path == "/elsewhere":
            return self.answer(302, {}, Location="http://127.0.0.1:9/secret")
        data = server.images.get(parts.path)
        return self.answer(404, {}) if data is None else self.answer(200, data)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.path == "/api/token/refresh/" and given == {"refresh": PERSONAL}
        self.server.holds += 1
        return self.answer(200 if good else 401, {"access": f"access{self.server.holds}"})

    def answer(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake():
    with FakeLabelStudio() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
