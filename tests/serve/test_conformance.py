"""The service keeps to its own OpenAPI description, for requests that schemathesis generates from it."""

import hypothesis
import numpy as np
import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from slap_jax.serve.app import create_app
from tests.search.fake_model import FakeModel


class AnyText(FakeModel):
    def embed_text(self, texts):
        return np.stack([np.eye(self.embed_dim, dtype=np.float32)[len(text) % self.embed_dim] for text in texts])


schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(AnyText()))


@schema.parametrize()
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_responses_conform(case):
    """Statuses, headers and bodies are as described, methods and paths that do not exist are refused, nothing crashes.

    Two checks do not apply to forms with files: that every request of the right form is accepted (a schema cannot say
    which bytes are audio), and that values of another type are refused (in a form, every value is a text).
    """
    case.call_and_validate(excluded_checks=[positive_data_acceptance, negative_data_rejection])
