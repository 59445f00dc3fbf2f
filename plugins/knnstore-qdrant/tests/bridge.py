"""A process that speaks Qdrant's protocols over loopback, backed by the client's local mode.

What it proves: everything on our side of the wire. Real sockets, real gRPC and HTTP, the messages of the real client,
its conversions, batching, sizes, deadlines, retries, authentication, TLS, forks, killed and frozen servers. Answers are
computed by the local mode from what was sent; none is written down here.

What it does not prove: how Qdrant's server behaves. Of that it plays only what a real one (1.18.3) was seen to do: it reads
JSON as that does, and it says what that said when told to (see ``Service.play``). The class ``TestServer`` in ``test_server.py`` runs the same kit against a real server where one can be had.

Run as a program, it prints one line of JSON with its ports, and serves until it is killed::

    python bridge.py '{"version": "1.20.0", "api_key": "", "cert": "", "key": "", "record": "/tmp/requests",
        "folder": "/tmp/data"}'
"""

# ruff: noqa: N802, N815  # the names of the protocols

import json
import pickle
import re
import ssl
import sys
import threading
import time
import warnings
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from qdrant_client import grpc as pb
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.local.qdrant_local import QdrantLocal

DEFAULTS = {"shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": True}
MOST = 32 * 2**20  # what a server takes over HTTP unless it is told otherwise


class NotFoundError(Exception):
    pass


class RefusalError(Exception):
    """What the server says instead of an answer: the name of a gRPC code, an HTTP status and a text."""

    def __init__(self, code, status, text):
        super().__init__(text)
        self.code, self.status = code, status


class Service:
    """The local mode, one request at a time, with what it forgets about a collection: how it was made, its indexes."""

    def __init__(self, version="1.20.0", record=None, bodies=False, folder=None, nagle=False):
        self.nagle = nagle
        self.version, self.record, self.bodies = version, record, bodies
        self.local, self.lock = (
            QdrantLocal(folder or ":memory:", force_disable_check_same_thread=True),
            threading.Lock(),
        )
        self.kept = Path(folder, "made.pickle") if folder else None
        self.hurry()
        self.made, self.indexes = pickle.loads(self.kept.read_bytes()) if folder and self.kept.exists() else ({}, {})
        self.faults, self.away, self.noticed, self.limits = [], 0, False, {}
        self.indexing = 0.0

    def play(self, faults=(), away=0, noticed=False, limits=None, indexing=0):
        """What happens from now on.

        Args:
            faults: refuse the next calls whose names match:
                ``{"calls": regex, "code": of gRPC, "status": of HTTP, "text": …, "times": n}``.
            away: replicas of each shard that cannot be reached.
            noticed: the cluster knows that already; until then it asks them in vain.
            limits: those of strict mode, under Qdrant's names.
            indexing: seconds that the optimisers are busy.
        """
        self.indexing = time.monotonic() + indexing
        self.faults, self.away, self.noticed, self.limits = faults, away, noticed, limits or {}

    def check_limits(self, limit, points, exact, listed):
        """Refuse what strict mode refuses, in its words."""
        most = self.limits.get("condition_max_size")
        if most and listed > most:
            text = f"Condition size limit reached ({listed} > {most}). Help: Reduce the size of your condition."
            raise RefusalError("INVALID_ARGUMENT", 400, f"Bad request: {text}")
        for name, value, most in (("limit", limit, self.limits.get("max_query_limit")),
                                  ("upsert limit", points, self.limits.get("upsert_max_batchsize"))):  # fmt: skip
            if most and value > most:
                text = f'Limit exceeded {value} > {most} for "{name}". Help: Reduce the "{name}" parameter to or below {most}.'
                raise RefusalError("INVALID_ARGUMENT", 400, f"Bad request: {text}")
        if exact and self.limits.get("search_allow_exact") is False:
            raise RefusalError("INVALID_ARGUMENT", 400, "Bad request: Exact search disabled!. Help: Set exact=false..")

    def ask_replicas(self, name, consistency):
        """Refuse a read that needs more replicas than are there, as Qdrant's ``execute_read_operation`` does."""
        total = (self.made.get(name) or {}).get("replication_factor") or 1
        needed = {"all": total, "majority": total, "quorum": total // 2 + 1}.get(consistency) or int(consistency or 1)
        if total - self.away < min(needed, total):
            failed = (
                f"{self.away} of {total} read operations failed:\n  tcp connect error: peer is currently unavailable"
            )
            missing = "The replica set for shard 0 on peer 1 does not have enough active replicas"
            text = f"Service internal error: {missing if self.noticed else failed}"
            raise RefusalError("INTERNAL", 500, text)

    def meet(self, method):
        with self.lock:
            for fault in self.faults:
                if fault["times"] and re.search(fault["calls"], method):
                    fault["times"] -= 1
                    raise RefusalError(fault["code"], fault["status"], fault["text"])

    def note(self, method, size, **more):
        if self.record:
            with self.lock, Path(self.record).open("a") as file:
                file.write(json.dumps({"method": method, "size": size, **more}) + "\n")

    def run(self, name, method, *args, **kwargs):
        with self.lock:
            if name is not None and name not in self.local.collections:
                raise NotFoundError(f"Not found: Collection `{name}` doesn't exist!")
            target = getattr(self.local, method)
            return target(*(() if name is None else (name,)), *args, **kwargs)

    def create(self, name, vectors, metadata, **made):
        self.run(None, "create_collection", name, vectors, metadata=metadata)
        self.made[name], self.indexes[name] = made, {}
        self.hurry()
        self.keep()
        return True

    def hurry(self):
        """What is written must outlive a killed process and not a power cut: no waiting for the disk at each point."""
        for collection in self.local.collections.values() if self.kept else ():
            collection.storage.storage.execute("PRAGMA journal_mode=WAL")
            collection.storage.storage.execute("PRAGMA synchronous=OFF")

    def keep(self):
        if self.kept:
            self.kept.with_suffix(".new").write_bytes(pickle.dumps((self.made, self.indexes)))
            self.kept.with_suffix(".new").rename(self.kept)

    def index(self, name, field, schema):
        self.run(name, "count")
        self.indexes[name][field] = models.PayloadIndexInfo(data_type=getattr(schema, "type", schema), points=0)
        self.keep()

    def facet(self, name, field, where, limit):
        """As the server does: every value that the index knows, with 0 where no record of it matches."""
        found = self.run(name, "facet", field, where, limit=limit, exact=True)
        counted = {hit.value for hit in found.hits}
        known = self.run(name, "facet", field, None, limit=limit, exact=True).hits
        found.hits += [models.FacetValueHit(value=hit.value, count=0) for hit in known if hit.value not in counted]
        found.hits = found.hits[:limit]
        return found

    def info(self, name):
        info = self.run(name, "get_collection")
        if time.monotonic() < self.indexing:
            info.status, info.indexed_vectors_count = models.CollectionStatus.YELLOW, info.points_count // 2
        info.payload_schema = self.indexes[name]
        made = self.made[name]
        for part, default in DEFAULTS.items():
            given = made.get(part)
            setattr(info.config.params, part, default if given is None else given)
        hnsw = made.get("hnsw_config")
        for part in ("m", "ef_construct", "full_scan_threshold"):
            if hnsw is not None and getattr(hnsw, part) is not None:
                setattr(info.config.hnsw_config, part, getattr(hnsw, part))
        info.config.quantization_config = made.get("quantization_config")
        return info


def read_float(text):
    """A literal that is no integer, as serde_json reads it without its feature ``float_roundtrip``.

    The digits as an integer of 64 bits, cut where they overflow, then as a double, then times or over a power of ten:
    rounded twice, which is off by a bit for one shortest text in twenty. The real server was seen to be.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits, scale = whole + fraction, int(exponent or 0) - len(fraction)
    while int(digits) >= 2**64:
        digits, scale = digits[:-1], scale + 1
    significand = int(digits)
    value = float(significand)
    while scale < -308:
        value, scale = value / 1e308, scale + 308
    value = value * 10.0**scale if scale >= 0 else value / 10.0**-scale
    return -value if text.startswith("-") else value


UPDATED = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def optional(message, field, convert=lambda value: value):
    return convert(getattr(message, field)) if message.HasField(field) else None


def grpc_services(service):
    """The three services of the protocol, each method a conversion there and back."""

    class Qdrant(pb.QdrantServicer):
        def HealthCheck(self, request, context):
            return pb.HealthCheckReply(title="qdrant", version=service.version)

    class Collections(pb.CollectionsServicer):
        def List(self, request, context):
            found = service.run(None, "get_collections").collections
            return pb.ListCollectionsResponse(collections=[pb.CollectionDescription(name=c.name) for c in found])

        def CollectionExists(self, request, context):
            exists = service.run(None, "collection_exists", request.collection_name)
            return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=exists))

        def Get(self, request, context):
            info = RestToGrpc.convert_collection_info(service.info(request.collection_name))
            return pb.GetCollectionInfoResponse(result=info)

        def Delete(self, request, context):
            done = service.run(request.collection_name, "delete_collection")
            return pb.CollectionOperationResponse(result=done)

        def Create(self, request, context):
            done = service.create(
                request.collection_name,
                GrpcToRest.convert_vectors_config(request.vectors_config),
                GrpcToRest.convert_payload(request.metadata),
                shard_number=optional(request, "shard_number"),
                replication_factor=optional(request, "replication_factor"),
                write_consistency_factor=optional(request, "write_consistency_factor"),
                on_disk_payload=optional(request, "on_disk_payload"),
                hnsw_config=optional(request, "hnsw_config", GrpcToRest.convert_hnsw_config_diff),
                quantization_config=optional(request, "quantization_config", GrpcToRest.convert_quantization_config),
            )
            return pb.CollectionOperationResponse(result=done)

    class Points(pb.PointsServicer):
        def Upsert(self, request, context):
            points = [GrpcToRest.convert_point_struct(point) for point in request.points]
            where = optional(request, "update_filter", GrpcToRest.convert_filter)
            service.run(request.collection_name, "upsert", points, update_filter=where)
            return pb.PointsOperationResponse(result=RestToGrpc.convert_update_result(UPDATED))

        def Delete(self, request, context):
            service.run(request.collection_name, "delete", GrpcToRest.convert_points_selector(request.points))
            return pb.PointsOperationResponse(result=RestToGrpc.convert_update_result(UPDATED))

        def UpdateBatch(self, request, context):
            operations = [GrpcToRest.convert_points_update_operation(operation) for operation in request.operations]
            service.run(request.collection_name, "batch_update_points", operations)
            done = RestToGrpc.convert_update_result(UPDATED)
            return pb.UpdateBatchResponse(result=[done] * len(operations))

        def CreateFieldIndex(self, request, context):
            kinds = ("KEYWORD", "INTEGER", "FLOAT", "GEO", "TEXT", "BOOL", "DATETIME", "UUID")
            schema = models.PayloadSchemaType[kinds[request.field_type]]
            service.index(request.collection_name, request.field_name, schema)
            return pb.PointsOperationResponse(result=RestToGrpc.convert_update_result(UPDATED))

        def Get(self, request, context):
            found = service.run(
                request.collection_name, "retrieve", [GrpcToRest.convert_point_id(i) for i in request.ids],
                with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
                with_vectors=request.with_vectors.enable,
            )  # fmt: skip
            return pb.GetResponse(result=[RestToGrpc.convert_retrieved_point(point) for point in found])

        def Scroll(self, request, context):
            found, offset = service.run(
                request.collection_name, "scroll", optional(request, "filter", GrpcToRest.convert_filter),
                limit=request.limit, offset=optional(request, "offset", GrpcToRest.convert_point_id),
                with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
                with_vectors=request.with_vectors.enable,
            )  # fmt: skip
            return pb.ScrollResponse(
                result=[RestToGrpc.convert_retrieved_point(point) for point in found],
                next_page_offset=None if offset is None else RestToGrpc.convert_extended_point_id(offset),
            )

        def Count(self, request, context):
            where = optional(request, "filter", GrpcToRest.convert_filter)
            found = service.run(request.collection_name, "count", where, exact=request.exact)
            return pb.CountResponse(result=RestToGrpc.convert_count_result(found))

        def Facet(self, request, context):
            where = optional(request, "filter", GrpcToRest.convert_filter)
            found = service.facet(request.collection_name, request.key, where, request.limit)
            return pb.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

        def QueryBatch(self, request, context):
            queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
            found = service.run(request.collection_name, "query_batch_points", queries)
            answers = [[RestToGrpc.convert_scored_point(hit) for hit in answer.points] for answer in found]
            return pb.QueryBatchResponse(result=[pb.BatchResult(result=answer) for answer in answers])

    return Qdrant(), Collections(), Points()


def limited(request):
    """What strict mode looks at: the limit, how many points are written, whether the answer must be exact, and how long
    a list of ids is.
    """
    queries, operations = getattr(request, "query_points", ()), getattr(request, "operations", ())
    limit = max([getattr(request, "limit", 0), *(query.limit for query in queries)])
    exact = getattr(request, "exact", False) or any(query.params.exact for query in queries)
    points = max((len(operation.upsert.points) for operation in operations), default=0)
    filters = [operation.set_payload.points_selector.filter for operation in operations]
    return limit, points, exact, max(map(listed, filters), default=0)


def listed(where):
    """The longest list of ids in a filter."""
    return max((listed(part.filter) or len(part.has_id.has_id) for part in where.must), default=0)


def limited_in(body):
    """The same for HTTP."""
    queries = body.get("searches", [])
    limit = max([body.get("limit") or 0, *(query.get("limit") or 0 for query in queries)])
    exact = body.get("exact", False) or any((query.get("params") or {}).get("exact") for query in queries)
    operations = body.get("operations", ())
    written = [operation.get("upsert", {}) for operation in operations]
    points = max((len(w.get("points", ())) or len(w.get("batch", {}).get("ids", ())) for w in written), default=0)
    filters = [operation.get("set_payload", {}).get("filter", {}) for operation in operations]
    return limit, points, exact, max(map(listed_in, filters), default=0)


def listed_in(where):
    """The same for HTTP."""
    return max((len(part.get("has_id", ())) or listed_in(part) for part in where.get("must") or ()), default=0)


def consistency_of(request):
    """As HTTP spells it."""
    kind = request.read_consistency.WhichOneof("value")
    value = getattr(request.read_consistency, kind) if kind else None
    return ("all", "majority", "quorum")[value] if kind == "type" else value


class Guard(grpc.ServerInterceptor):
    """Records each request, asks for the key, and gives errors the codes that Qdrant gives them."""

    def __init__(self, service, api_key, read_only_key):
        self.service, self.api_key, self.read_only_key = service, api_key, read_only_key

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        method = details.method.rpartition("/")[2]
        given = dict(details.invocation_metadata).get("api-key", "")
        allowed = not self.api_key or (given and given in (self.api_key, self.read_only_key)) or method == "HealthCheck"
        refused = given == self.read_only_key and given and method in WRITES

        def guarded(request, context):
            self.service.note(method, request.ByteSize(), queries=len(getattr(request, "query_points", ())))
            if not allowed:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid api-key")
            if refused:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, READ_ONLY)
            try:
                self.service.meet(method)
                self.service.check_limits(*limited(request))
                if hasattr(request, "read_consistency"):
                    self.service.ask_replicas(request.collection_name, consistency_of(request))
                return handler.unary_unary(request, context)
            except RefusalError as error:
                context.abort(grpc.StatusCode[error.code], str(error))
            except NotFoundError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {error}")

        return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)


READ_ONLY = "Forbidden: Global manage access is required"
WRITES = {"Create", "Delete", "Upsert", "UpdateBatch", "CreateFieldIndex"}


def writes(command, path):
    return command in ("PUT", "DELETE") or path.endswith(("/points/batch", "/points/delete"))


def keys(options):
    return options.get("api_key", ""), options.get("read_only_key", "")


def start_grpc(service, options):
    server = grpc.server(
        futures.ThreadPoolExecutor(8), interceptors=[Guard(service, *keys(options))],
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
                 ("grpc.http2.min_ping_interval_without_data_ms", 5000)],
    )  # fmt: skip
    qdrant, collections, points = grpc_services(service)
    pb.add_QdrantServicer_to_server(qdrant, server)
    pb.add_CollectionsServicer_to_server(collections, server)
    pb.add_PointsServicer_to_server(points, server)
    address = f"127.0.0.1:{options.get('grpc', 0)}"
    if options.get("cert"):
        pair = Path(options["key"]).read_bytes(), Path(options["cert"]).read_bytes()
        port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(address)
    server.start()
    return server, port


# -- HTTP --------------------------------------------------------------------------------------------------------------


def get_info(service, name, body):
    return service.info(name)


def create(service, name, body):
    wanted = models.CreateCollection(**body)
    made = {key: value for key, value in wanted if key not in ("vectors", "metadata", "sparse_vectors")}
    return service.create(name, wanted.vectors, wanted.metadata, **made)


def index(service, name, body):
    wanted = models.CreateFieldIndex(**body)
    service.index(name, wanted.field_name, wanted.field_schema)
    return UPDATED


def upsert(service, name, body):
    kind = models.PointsBatch if "batch" in body else models.PointsList
    wanted = kind(**body)
    points = wanted.batch if "batch" in body else wanted.points
    service.run(name, "upsert", points, update_filter=wanted.update_filter)
    return UPDATED


def update_batch(service, name, body):
    operations = models.UpdateOperations(**body).operations
    service.run(name, "batch_update_points", operations)
    return [UPDATED] * len(operations)


def retrieve(service, name, body):
    wanted = models.PointRequest(**body)
    return service.run(name, "retrieve", wanted.ids, with_payload=wanted.with_payload, with_vectors=wanted.with_vector)


def scroll(service, name, body):
    w = models.ScrollRequest(**body)
    points, offset = service.run(
        name, "scroll", w.filter, limit=w.limit, offset=w.offset, with_payload=w.with_payload,
        with_vectors=w.with_vector,
    )  # fmt: skip
    return models.ScrollResult(points=points, next_page_offset=offset)


def count(service, name, body):
    wanted = models.CountRequest(**body)
    return service.run(name, "count", wanted.filter, exact=wanted.exact)


def facet(service, name, body):
    wanted = models.FacetRequest(**body)
    return service.facet(name, wanted.key, wanted.filter, wanted.limit)


def query_batch(service, name, body):
    return service.run(name, "query_batch_points", models.QueryRequestBatch(**body).searches)


def delete(service, name, body):
    selector = models.FilterSelector(**body) if "filter" in body else models.PointIdsList(**body)
    service.run(name, "delete", selector)
    return UPDATED


ROUTES = [
    ("GET", r"/collections", lambda s, n, b: s.run(None, "get_collections")),
    ("GET", r"/collections/([^/]+)/exists", lambda s, n, b: {"exists": s.run(None, "collection_exists", n)}),
    ("GET", r"/collections/([^/]+)", get_info),
    ("PUT", r"/collections/([^/]+)", create),
    ("DELETE", r"/collections/([^/]+)", lambda s, n, b: s.run(n, "delete_collection")),
    ("PUT", r"/collections/([^/]+)/index", index),
    ("PUT", r"/collections/([^/]+)/points", upsert),
    ("POST", r"/collections/([^/]+)/points", retrieve),
    ("POST", r"/collections/([^/]+)/points/scroll", scroll),
    ("POST", r"/collections/([^/]+)/points/count", count),
    ("POST", r"/collections/([^/]+)/points/query/batch", query_batch),
    ("POST", r"/collections/([^/]+)/points/delete", delete),
    ("POST", r"/collections/([^/]+)/points/batch", update_batch),
    ("POST", r"/collections/([^/]+)/facet", facet),
]


def plain(value):
    """A model, or a list of them, as JSON."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value


def http_handler(service, api_key, read_only_key):
    from urllib.parse import parse_qs, unquote, urlsplit

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet; or each in its own, and the second when the first is acknowledged (Nagle), as a
        # server may whose sockets have not been told TCP_NODELAY.
        wbufsize = 0 if service.nagle else 65_536

        def log_message(self, *args):
            pass

        def answer(self, status, content):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def serve(self):
            length = int(self.headers.get("Content-Length", 0))
            data = self.rfile.read(length)
            path, query = urlsplit(self.path).path, urlsplit(self.path).query
            if path == "/bridge":
                return self.answer(200, service.play(**json.loads(data)))
            service.note(
                f"{self.command} {path}", length, query=query, **({"body": data.decode()} if service.bodies else {})
            )
            if path == "/":
                return self.answer(200, {"title": "qdrant", "version": service.version})
            given = self.headers.get("api-key")
            if api_key and not (given and given in (api_key, read_only_key)):
                return self.answer(401, {"status": {"error": "Invalid api-key"}})
            if given and given == read_only_key and writes(self.command, path):
                return self.answer(403, {"status": {"error": READ_ONLY}})
            if length > MOST:
                return self.answer(413, {"status": {"error": "Payload too large"}})
            for method, pattern, handle in ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    name = unquote(match[1]) if match.groups() else None
                    return self.respond(handle, name, json.loads(data, parse_float=read_float) if data else {})
            return self.answer(404, {"status": {"error": f"no route for {self.command} {path}"}})

        def respond(self, handle, name, body):
            try:
                service.meet(f"{self.command} {self.path}")
                service.check_limits(*limited_in(body))
                asked = parse_qs(urlsplit(self.path).query).get("consistency", [None])[0]
                if self.command == "POST" and handle not in (update_batch, delete):
                    service.ask_replicas(name, asked)
                self.answer(200, {"result": plain(handle(service, name, body)), "status": "ok", "time": 0.0})
            except RefusalError as error:
                self.answer(error.status, {"status": {"error": str(error)}})
            except NotFoundError as error:
                self.answer(404, {"status": {"error": str(error)}})
            except ValueError as error:
                self.answer(400, {"status": {"error": f"Wrong input: {error}"}})

        do_GET = do_PUT = do_POST = do_DELETE = serve

    return Handler


def start_http(service, options):
    server = ThreadingHTTPServer(("127.0.0.1", options.get("http", 0)), http_handler(service, *keys(options)))
    server.daemon_threads = True
    if options.get("cert"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["cert"], options["key"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


def main():
    warnings.simplefilter("ignore")
    options = json.loads(sys.argv[1])
    given = ("version", "record", "bodies", "folder", "nagle")
    service = Service(**{name: options[name] for name in given if name in options})
    grpc_server, grpc_port = start_grpc(service, options)
    _, http_port = start_http(service, options)
    print(json.dumps({"grpc": grpc_port, "http": http_port}), flush=True)
    grpc_server.wait_for_termination()


if __name__ == "__main__":
    main()
