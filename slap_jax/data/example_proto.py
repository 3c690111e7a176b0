"""The message `tf.train.Example`, the form in which TFDS stores a record, without TensorFlow and without TFDS.

TFDS has the same class, but importing it loads the whole library. A private descriptor pool keeps this copy apart from
those that TensorFlow or TFDS register. Source: tensorflow/core/example/example.proto and feature.proto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

_PACKAGE = "slap_jax"


def _build_example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package=_PACKAGE, syntax="proto3")

    def message(name: str, parent: Any = None) -> Any:
        return parent.nested_type.add(name=name) if parent else file.message_type.add(name=name)

    def field(owner: Any, name: str, number: int, kind: Any, type_name: str = "", repeated: bool = False, **more: Any):
        label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
        of_type = {"type_name": f".{_PACKAGE}.{type_name}"} if type_name else {}
        owner.field.add(name=name, number=number, type=kind, label=label, **of_type, **more)

    for name, kind in (
        ("BytesList", Field.TYPE_BYTES),
        ("FloatList", Field.TYPE_FLOAT),
        ("Int64List", Field.TYPE_INT64),
    ):
        field(message(name), "value", 1, kind, repeated=True)  # proto3 packs repeated numbers

    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, type_name) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        field(feature, name, number, Field.TYPE_MESSAGE, type_name, oneof_index=0)

    features = message("Features")
    entry = message("FeatureEntry", features)  # map<string, Feature>
    entry.options.map_entry = True
    field(entry, "key", 1, Field.TYPE_STRING)
    field(entry, "value", 2, Field.TYPE_MESSAGE, "Feature")
    field(features, "feature", 1, Field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)

    field(message("Example"), "features", 1, Field.TYPE_MESSAGE, "Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


Example = _build_example_class()
