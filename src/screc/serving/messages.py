"""The messages of ``inference.GRPCInferenceService``, the Open Inference Protocol V2 over gRPC.

They stand here as a table of field numbers and types, which is what counts on the wire, and live in a pool of
their own: a process may use another package's definitions of the same names beside them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

# Messages and their fields: number, name, type. "repeated" and "map" (from strings) stand before a type.
_FIELDS = """
ServerLiveRequest
ServerLiveResponse
  1 live bool
ServerReadyRequest
ServerReadyResponse
  1 ready bool
ModelReadyRequest
  1 name string
  2 version string
ModelReadyResponse
  1 ready bool
ServerMetadataRequest
ServerMetadataResponse
  1 name string
  2 version string
  3 extensions repeated string
ModelMetadataRequest
  1 name string
  2 version string
ModelMetadataResponse
  1 name string
  2 versions repeated string
  3 platform string
  4 inputs repeated TensorMetadata
  5 outputs repeated TensorMetadata
TensorMetadata
  1 name string
  2 datatype string
  3 shape repeated int64
InferParameter
  1 bool_param bool in parameter_choice
  2 int64_param int64 in parameter_choice
  3 string_param string in parameter_choice
  4 double_param double in parameter_choice
  5 uint64_param uint64 in parameter_choice
InferTensorContents
  1 bool_contents repeated bool
  2 int_contents repeated int32
  3 int64_contents repeated int64
  4 uint_contents repeated uint32
  5 uint64_contents repeated uint64
  6 fp32_contents repeated float
  7 fp64_contents repeated double
  8 bytes_contents repeated bytes
ModelInferRequest
  1 model_name string
  2 model_version string
  3 id string
  4 parameters map InferParameter
  5 inputs repeated InferInputTensor
  6 outputs repeated InferRequestedOutputTensor
  7 raw_input_contents repeated bytes
InferInputTensor
  1 name string
  2 datatype string
  3 shape repeated int64
  4 parameters map InferParameter
  5 contents InferTensorContents
InferRequestedOutputTensor
  1 name string
  2 parameters map InferParameter
ModelInferResponse
  1 model_name string
  2 model_version string
  3 id string
  4 parameters map InferParameter
  5 outputs repeated InferOutputTensor
  6 raw_output_contents repeated bytes
InferOutputTensor
  1 name string
  2 datatype string
  3 shape repeated int64
  4 parameters map InferParameter
  5 contents InferTensorContents
ModelStreamInferResponse
  1 error_message string
  2 infer_response ModelInferResponse
ModelConfigRequest
  1 name string
  2 version string
ModelConfigResponse
  1 config ModelConfig
ModelConfig
  1 name string
  2 platform string
  17 backend string
  4 max_batch_size int32
  5 input repeated ModelInput
  6 output repeated ModelOutput
  11 dynamic_batching ModelDynamicBatching
  14 parameters map ModelParameter
ModelInput
  1 name string
  2 data_type int32
  4 dims repeated int64
  8 optional bool
ModelOutput
  1 name string
  2 data_type int32
  3 dims repeated int64
ModelDynamicBatching
  1 preferred_batch_size repeated int32
  2 max_queue_delay_microseconds uint64
ModelParameter
  1 string_value string
ModelStatisticsRequest
  1 name string
  2 version string
ModelStatisticsResponse
  1 model_stats repeated ModelStatistics
ModelStatistics
  1 name string
  2 version string
  4 inference_count uint64
  5 execution_count uint64
  6 inference_stats InferStatistics
InferStatistics
  1 success StatisticDuration
  2 fail StatisticDuration
  3 queue StatisticDuration
  5 compute_infer StatisticDuration
StatisticDuration
  1 count uint64
  2 ns uint64
RepositoryIndexRequest
  1 repository_name string
  2 ready bool
RepositoryIndexResponse
  1 models repeated ModelIndex
ModelIndex
  1 name string
  2 version string
  3 state string
  4 reason string
ModelRepositoryParameter
  1 bool_param bool in parameter_choice
  2 int64_param int64 in parameter_choice
  3 string_param string in parameter_choice
  4 bytes_param bytes in parameter_choice
RepositoryModelLoadRequest
  1 repository_name string
  2 model_name string
  3 parameters map ModelRepositoryParameter
RepositoryModelLoadResponse
RepositoryModelUnloadRequest
  1 repository_name string
  2 model_name string
  3 parameters map ModelRepositoryParameter
RepositoryModelUnloadResponse
"""

# Model configurations name datatypes by number; the protocol's other messages by name.
CONFIG_TYPES = {"TYPE_FP32": 11, "TYPE_INT64": 9}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _field(message: Any, number: int, name: str, kind: str) -> Any:
    """Adds a field of a scalar or message type."""
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{kind}"
    return field


def _map_entry(message: Any, name: str, kind: str) -> str:
    """Adds the message that a map's entries are; returns its name."""
    entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
    entry.options.map_entry = True
    _field(entry, 1, "key", "string")
    _field(entry, 2, "value", kind)
    return f"{message.name}.{entry.name}"


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="screc/inference.proto", package="inference", syntax="proto3"
    )
    message: Any = None
    for line in filter(None, _FIELDS.splitlines()):
        if not line.startswith(" "):
            message = file.message_type.add(name=line)
            continue
        number, name, *words = line.split()
        if words[0] == "map":
            field = _field(message, int(number), name, _map_entry(message, name, words[1]))
            field.label = _Field.LABEL_REPEATED
        elif words[0] == "repeated":
            _field(message, int(number), name, words[1]).label = _Field.LABEL_REPEATED
        else:
            field = _field(message, int(number), name, words[0])
            if words[1:2] == ["in"]:
                if not message.oneof_decl:
                    message.oneof_decl.add(name=words[2])
                field.oneof_index = 0
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))
