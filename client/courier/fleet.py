"""Fleet protocol of Flower 1.41, the part that a node needs to carry messages, by Flower's own HTTP
client. The only file that knows it.

`flwr.supernode.fleet_http_connection` is what Flower's SuperNode makes of the same client. Left out
here, so that nothing which a coordinator ships can be run: the bundle (GetFab) and the run that
names it (GetRun) are never asked for. A message is a tree of objects, named by their SHA-256, each
pulled and pushed for itself, arrays in pieces of 5 MB. A SuperLink hands a message out once; a
reply that comes again under its own name is taken once.
"""

from __future__ import annotations

import datetime
import email.utils
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.version import package_version
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import FederationError, UsageError, WireError
from common.wire.framing import LIMIT

FLOWER = "1.41"
"""The release whose protocol this is."""
ONLINE = 60.0
"""Seconds after its last heartbeat for which a node is held for online: twice the interval."""
_SECONDS = 30.0
"""For one request."""
_MOST_BYTES = LIMIT + (1 << 20)
"""Of all objects of a message: a packet of the largest size, and what stands around it."""
_LONGEST = 30 * 86_400.0
"""Seconds that a message may live."""
_ELSEWHERE = (404, 405, 415, 422)
"""Statuses of a server that has no such route, or does not read such a request."""
_FOREIGN = (
    ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE,
    ApiErrorCode.UNSUPPORTED_CONTENT_TYPE,
    ApiErrorCode.INVALID_PROTOBUF_PAYLOAD,
    ApiErrorCode.INVALID_PROTOBUF_REQUEST,
    ApiErrorCode.INVALID_PROTOBUF_RESPONSE,
)

A = TypeVar("A")
B = TypeVar("B")


class Patient(Protocol):
    """Makes a request again, as long as the SuperLink is away."""

    def __call__(self, request: Callable[[], B]) -> B: ...


class Away(Exception):
    """The SuperLink cannot be reached, or is not up; it may be back later.

    certificate: it shows one that has expired, or that is not by the federation's authority.
    """

    def __init__(self, why: str, certificate: bool = False) -> None:
        super().__init__(why)
        self.certificate = certificate


class Shut(Exception):
    """The SuperLink does not let this node in."""


class RunOver(Exception):
    """The message's run does not go on: nobody waits for its answer."""


@dataclass(frozen=True)
class Delivery:
    """A message as it was handed out: its metadata, and the names of the objects it is made of."""

    message: Message
    tree: ObjectTree

    @property
    def run(self) -> int:
        return self.message.metadata.run_id

    @property
    def name(self) -> str:
        return self.message.metadata.message_id


class Fleet:
    """A node's connection to the SuperLink behind `address` (host:port), over TLS by the authority
    in `ca`, with the node's key (OpenSSH, on a NIST curve). For several threads at once.

    Any request may raise Away, Shut, RunOver, or FederationError R11 where the other side speaks
    another protocol.
    """

    def __init__(self, address: str, ca: Path, key: Path) -> None:
        if not package_version.startswith(f"{FLOWER}."):
            raise FederationError(
                "R11",
                f"Flower {package_version} is installed, this courier speaks the protocol of "
                f"{FLOWER}; install the versions of constraints.txt",
            )
        private = _private(key)
        self._public = public_key_to_bytes(private.public_key())
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[_Version(), NodeAuthHttpInterceptor(private, private.public_key())],
            verify=_trusted(ca),
            timeout=_SECONDS,
        )
        self._node = Node()

    def join(self) -> None:
        """Sign in. Shut where the SuperLink does not know the key, or holds the node for online."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=ONLINE / 2)
        self._node = Node(node_id=_asked(self._client.ActivateNode, request).node_id)

    def leave(self) -> None:
        """Sign out, so that the node may join again at once."""
        _asked(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self._node.node_id))

    def beat(self) -> None:
        """A heartbeat; it brings back a node that was held for gone."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=ONLINE / 2)
        if not _asked(self._client.SendNodeHeartbeat, request).success:
            raise Shut("it does not know this node any more")

    def pull(self) -> Delivery | None:
        """The next message for this node, without its content; WireError W02 where it is not one
        that could be answered."""
        answer = _asked(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not answer.messages_list:
            return None
        try:
            message, tree = (
                message_from_proto(answer.messages_list[0]),
                answer.message_object_trees[0],
            )
            if not 0 <= message.metadata.ttl <= _LONGEST:  # nor what is no number
                raise ValueError("it lives too long")
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise WireError("W02", "a message without an address, a type or an end") from error
        return Delivery(message, tree)

    def content(self, delivery: Delivery, patient: Patient) -> Message:
        """The message whole; WireError W02 where it is none, or is too large."""
        lock, total = threading.Lock(), 0

        def pulled(name: str) -> bytes:
            nonlocal total
            request = PullObjectRequest(node=self._node, run_id=delivery.run, object_id=name)
            blob = patient(lambda: self._object(request))
            with lock:
                total += len(blob)
                if total > _MOST_BYTES:
                    raise WireError("W02", f"a message of more than {_MOST_BYTES} bytes")
            return blob

        names = list(dict.fromkeys(tree.object_id for tree in iterate_object_tree(delivery.tree)))
        try:
            # the message is handed out before all its objects have come
            blobs = pull_objects(names, pulled, initial_backoff=0.05, backoff_cap=2.0)
            whole = inflate_object_from_contents(delivery.tree.object_id, blobs)
        except (ObjectPullError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise WireError("W02", f"a message that is not whole ({error})") from error
        if not isinstance(whole, Message) or not whole.has_content():
            raise WireError("W02", "a message without content")
        return make_message(metadata=delivery.message.metadata, content=whole.content)

    def _object(self, request: PullObjectRequest) -> bytes:
        answer = _asked(self._client.PullObject, request)
        if not answer.object_found:
            raise ObjectPullError(request.object_id, "it is not there")
        if not answer.object_available:
            raise ObjectUnavailableError(request.object_id)
        return bytes(answer.object_content)

    def received(self, delivery: Delivery) -> None:
        """The message has come whole: the SuperLink may forget its objects."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=delivery.run, message_object_id=delivery.name
        )
        _asked(self._client.ConfirmMessageReceived, request)

    def push(self, reply: Message, seconds: float, patient: Patient) -> None:
        """A reply, and the objects of it that the SuperLink lacks. Again under the same name where
        the SuperLink has given up on the first.

        seconds: what the answer took, for Flower's own account.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            objects = get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            patient(lambda: self._push(request, reply.metadata.run_id, objects))

    def _push(
        self, request: PushMessagesRequest, run: int, objects: dict[str, InflatableObject]
    ) -> None:
        answer = _asked(self._client.PushMessages, request)

        def pushed(name: str, blob: bytes) -> None:
            piece = PushObjectRequest(
                node=self._node,
                run_id=run,
                object_id=name,
                object_content=blob,
                session_id=answer.session_id,
            )
            if not _asked(self._client.PushObject, piece).stored:
                raise ObjectPushError(name, run, answer.session_id)

        wanted = set(answer.objects_to_push)
        try:
            push_objects(objects, pushed, object_ids_to_push=wanted, keep_objects=True)
        except ObjectPushError as error:
            raise Away("it has given up on a reply that took too long to come") from error


class _Version:
    """Tells the SuperLink this Flower's version, and stops where the SuperLink refuses it."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        version = RuntimeVersionMetadata.from_local_component("SuperNode")
        add_headers(context.request, dict(version.as_metadata()))
        return call_next(context)


def _asked(call: Callable[[A], B], request: A) -> B:
    try:
        return call(request)
    except httpx.HTTPStatusError as error:
        raise _refusal(error.response) from error
    except httpx.RequestError as error:
        raise _away(error) from error
    except ValueError as error:
        raise _foreign("an answer that is not Flower's") from error


def _refusal(response: httpx.Response) -> Exception:
    """What a status other than 2xx means. The text beside it is the other side's: it is not
    printed."""
    status, told = response.status_code, FlowerError.from_json(response.text)
    code = None if told is None else told.code
    if code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED:
        return RunOver()
    if status == httpx.codes.UNAUTHORIZED:
        return Shut(f"it does not take this node's signature{_skewed(response)}")
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return Shut("it does not know this courier's key, or holds its node for online")
    if status in _ELSEWHERE or code in _FOREIGN:
        return _foreign(f"status {status}")
    return Away(f"it answers with status {status}")


def _skewed(response: httpx.Response) -> str:
    """Signatures are of a time, and are taken for five minutes."""
    try:
        there = email.utils.parsedate_to_datetime(response.headers["date"])
        skew = (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    except (KeyError, ValueError, TypeError):
        return ""
    if abs(skew) < ONLINE:
        return ""
    return f": this machine's clock differs by {skew:+.0f} s from the coordinator's, set it"


def _foreign(told: str) -> FederationError:
    return FederationError(
        "R11",
        f"the coordinator does not speak the protocol of Flower {FLOWER} ({told}); install the "
        "same version of fedmets on both sides",
    )


def _away(error: httpx.RequestError) -> Away:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Away(f"its certificate is not accepted: {cause.verify_message}", True)
    if isinstance(error, httpx.ProxyError):
        return Away(f"the proxy does not let this through ({error})")
    if isinstance(error, httpx.TimeoutException):
        return Away("no answer in time")
    if isinstance(error, httpx.ConnectError):
        return Away(f"no connection ({error})")
    return Away(f"the connection broke off ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _trusted(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise UsageError(
            "C04", f"certificate '{ca}' cannot be read ({error}); ask for the kit again"
        ) from error


def _private(key: Path) -> ec.EllipticCurvePrivateKey:
    try:
        private = load_ssh_private_key(key.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "C04",
            f"'{key}' is no private key in OpenSSH form ({error}); make it again with `fedmets "
            "deploy enroll`",
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise UsageError(
            "C04", f"'{key}' is not on a NIST curve; make it again with `fedmets deploy enroll`"
        )
    return private
