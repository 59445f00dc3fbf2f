"""The channel to a server, without one."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from knnstore_milvus.connection import Connection, Credentials
from pymilvus.grpc_gen import milvus_pb2

from knnstore.errors import StoreClosedError
from knnstore.remote import Patience


def test_closing_ends_a_call_in_flight_and_leaves_no_channel():
    """Also not one that the other thread opens for its next request, which nobody would close."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        connection = Connection(f"127.0.0.1:{silent.getsockname()[1]}", Credentials(), "default", Patience(20, 50))
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(connection.call, "GetVersion", milvus_pb2.GetVersionRequest())
            with silent.accept()[0]:
                connection.close()
                with pytest.raises(StoreClosedError, match=r"127\.0\.0\.1"):
                    call.result(10)
        with pytest.raises(StoreClosedError):
            connection.call("GetVersion", milvus_pb2.GetVersionRequest())
        assert connection._client._made is None
