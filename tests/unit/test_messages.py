"""Our messages of the gRPC service against another package's, field by field, and on the wire."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("google.protobuf")
service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")

from google.protobuf.descriptor import Descriptor  # noqa: E402

from screc.serving import messages  # noqa: E402


def every_message(file) -> dict[str, Descriptor]:
    """Messages by their own name, nested ones too."""
    found: dict[str, Descriptor] = {}

    def visit(message: Descriptor) -> None:
        if not message.GetOptions().map_entry:
            found[message.name] = message
        for inner in message.nested_types:
            visit(inner)

    for message in file.message_types_by_name.values():
        visit(message)
    return found


def described(field) -> tuple:
    kind = "int32" if field.enum_type else field.type  # an enumeration's numbers are int32 on the wire
    kind = "int32" if kind == field.TYPE_INT32 else kind
    target = field.message_type
    is_map = target is not None and target.GetOptions().map_entry
    if is_map:
        value = target.fields_by_name["value"]
        target = value.message_type
        kind = ("map", value.type)
    return field.name, kind, field.is_repeated, target.name if target else None


def test_every_field_has_the_services_number_and_type() -> None:
    from tritonclient.grpc import model_config_pb2

    theirs = every_message(service_pb2.DESCRIPTOR) | every_message(model_config_pb2.DESCRIPTOR)
    ours = every_message(messages._POOL.FindFileByName("screc/inference.proto"))
    assert len(ours) > 30
    for name, message in ours.items():
        by_number = {field.number: described(field) for field in theirs[name].fields}
        assert {field.number: described(field) for field in message.fields}.items() <= by_number.items(), name


def test_a_request_crosses() -> None:
    theirs = service_pb2.ModelInferRequest(model_name="m", id="7")
    theirs.parameters["timeout"].int64_param = 1000
    tensor = theirs.inputs.add(name="dense", datatype="FP32", shape=[1, 2])
    theirs.raw_input_contents.append(np.ones(2, np.float32).tobytes())
    tensor.parameters["x"].string_param = "y"
    ours = messages.message("ModelInferRequest").FromString(theirs.SerializeToString())
    assert (ours.model_name, ours.id, ours.parameters["timeout"].int64_param) == ("m", "7", 1000)
    assert ours.inputs[0].parameters["x"].WhichOneof("parameter_choice") == "string_param"
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs
