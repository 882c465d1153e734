"""What the OpenAPI schema says of bodies; the handlers check them themselves."""

from typing import Any, Final

from prn_guard.contract import Manifest
from prn_guard.serve.tensors import input_datatype

Schema = dict[str, Any]

ERROR: Final[Schema] = {
    "description": 'What went wrong, as `{"error": "..."}`.',
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}},
                "required": ["error"],
            }
        }
    },
}
_PARAMETERS: Final = {"type": "object", "additionalProperties": True}
_TENSOR: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}},
    },
    "required": ["name", "shape", "datatype"],
}
_OUTPUT: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
    "required": ["name"],
}
_ANSWER: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
    "required": ["model_name", "model_version", "outputs"],
}
_TIMEOUT: Final = {
    "name": "x-request-timeout-ms",
    "in": "header",
    "required": False,
    "schema": {"type": "number", "minimum": 1},
}
_PICTURE: Final = {"schema": {"type": "string", "format": "binary"}}


def _flag(name: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "boolean"}}


def path_parameters(names: list[str], model: str, version: str) -> list[Schema]:
    """Model and version in a path: there is one of each."""
    known = {"name": model, "version": version}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": [known[name]]},
        }
        for name in names
    ]


def infer_schema(manifest: Manifest, *, max_pictures: int) -> Schema:
    """Of `infer` with JSON alone; the binary extension is beyond what OpenAPI can say."""
    sizes = [{"const": size} for size in manifest.tensor.shape(manifest.input)]
    pixels = manifest.tensor.dtype == "uint8"
    number = {"type": "integer", "minimum": 0, "maximum": 255} if pixels else {"type": "number"}
    tensor = {
        "type": "object",
        "properties": {
            "name": {"const": manifest.tensor.name},
            "datatype": {"const": input_datatype(manifest)},
            "shape": {
                "type": "array",
                "prefixItems": [{"type": "integer", "minimum": 1, "maximum": max_pictures}, *sizes],
                "minItems": 4,
                "maxItems": 4,
            },
            "data": {
                "type": "array",
                "description": "As many numbers as the shape has, in a row or nested.",
                "anyOf": [{"items": number}, {"items": {"type": "array"}}],
            },
            "parameters": _PARAMETERS,
        },
        "required": ["name", "shape", "datatype", "data"],
    }
    request = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": _PARAMETERS,
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": _OUTPUT},
        },
        "required": ["inputs"],
    }
    return {
        "parameters": [_TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {
                "description": "The outputs.",
                "content": {"application/json": {"schema": _ANSWER}},
            },
        },
    }


CLASSIFY_SCHEMA: Final[Schema] = {
    "parameters": [_flag("explain"), _flag("resize"), _TIMEOUT],
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _PICTURE,
            "image/png": _PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "Label, probability, score and flag.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "label": {"type": "integer"},
                            "class_name": {"type": "string"},
                            "probability": {"type": "number"},
                            "flagged": {"type": "boolean"},
                            "score": {"type": "number"},
                            "threshold": {"type": "number"},
                            "request_id": {"type": "string"},
                        },
                        "required": ["label", "class_name", "probability", "flagged", "score"],
                    }
                }
            },
        },
    },
}
