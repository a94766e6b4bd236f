"""Every policy that ships keeps the contract."""

import pytest

from policies.policy import Policy
from policies.registry import POLICIES, make_policy
from tests.contracts.policy_contract import PolicyContract


@pytest.mark.parametrize("name", POLICIES)
class TestShippedPolicies(PolicyContract):
    @pytest.fixture
    def policy(self, name: str) -> Policy:
        return make_policy(name)
