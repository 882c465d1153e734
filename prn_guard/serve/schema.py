"""What the OpenAPI schema says of bodies; the handlers check them themselves."""

from typing import Any, Final

_ERROR: Final[dict[str, Any]] = {
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
_REFUSALS: Final = ("400", "401", "403", "404", "408", "413", "415", "500", "503", "504")
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
_REQUEST: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "maxLength": 256},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
    "required": ["inputs"],
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
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_PICTURE: Final = {"schema": {"type": "string", "format": "binary"}}


def _flag(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "boolean"}}


INFER_SCHEMA: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
        },
        _TIMEOUT,
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}}},
    "responses": {
        "200": {
            "description": "The outputs.",
            "content": {
                "application/json": {"schema": _ANSWER},
                "application/octet-stream": {},
            },
        },
        **dict.fromkeys(_REFUSALS, _ERROR),
    },
}

CLASSIFY_SCHEMA: Final[dict[str, Any]] = {
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
        **dict.fromkeys(_REFUSALS, _ERROR),
    },
}
