"""The path grammar of google.api.http."""

import pytest

from agentmesh_gateway.path_templates import BadTemplate, compile_template


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/tasks", "/v1/tasks", {}),
        ("/v1/tasks", "/v1/tasks/", None),
        ("/v1/tasks/{task_id}", "/v1/tasks/a%2Fb%C3%A4", {"task_id": "a/bä"}),
        ("/v1/tasks/{task_id}", "/v1/tasks/a/b", None),
        ("/v1/tasks/{task_id}", "/v1/tasks/", None),
        ("/v1/tasks/{task_id}:watch", "/v1/tasks/a:watch", {"task_id": "a"}),
        ("/v1/tasks/{task_id}:watch", "/v1/tasks/a:b:watch", {"task_id": "a:b"}),
        ("/v1/tasks/{task_id}:watch", "/v1/tasks/a%3Awatch", None),
        ("/v1/tasks:stream", "/v1/tasks:stream", {}),
        ("/v1/{name=files/**}", "/v1/files/a/b.c", {"name": "files/a/b.c"}),
        ("/v1/{name=files/*}/x:go", "/v1/files/a/x:go", {"name": "files/a"}),
        ("/v1/{a.b}/and/{c}", "/v1/1/and/2", {"a.b": "1", "c": "2"}),
        ("/v1/**", "/v1/any/thing", {}),
        ("/v1/a.b", "/v1/aXb", None),
    ],
)
def test_a_template_matches_as_google_api_http_says(template: str, path: str, values: dict[str, str] | None):
    assert compile_template(template).match(path) == values


@pytest.mark.parametrize("template", ["v1", "/v1//a", "/v1/{a", "/v1/{}", "/v1/a{b}"])
def test_a_template_that_the_grammar_forbids_is_refused(template: str):
    with pytest.raises(BadTemplate):
        compile_template(template)


def test_the_more_literal_template_comes_first():
    texts = ["/v1/{a=**}", "/v1/tasks/{b}", "/v1/tasks/{b}:watch", "/v1/{a}/{b}", "/v1/tasks/all"]
    ordered = sorted(map(compile_template, texts), key=lambda template: template.specificity)
    assert [template.text for template in ordered] == [texts[2], texts[4], texts[1], texts[3], texts[0]]


def test_bytes_that_are_not_utf8_are_an_error():
    with pytest.raises(ValueError, match="utf-8"):
        compile_template("/v1/{a}").match("/v1/%ff")
