"""STUN: message codec, integrity, transactions and URIs (RFC 8489, 7064, 7065).

Sans-IO.  Attributes of ICE (RFC 8445) and TURN (RFC 8656) are in the table too; what they mean is decided there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.stun.attributes import Attribute
    from edgeice.stun.integrity import AuthenticationError, Integrity, long_term_key, opaque_string, userhash
    from edgeice.stun.message import (
        AuthenticatedMessage,
        Message,
        MessageClass,
        Method,
        authenticate,
        decode,
        encode,
        is_stun,
    )
    from edgeice.stun.rto import RtoCache
    from edgeice.stun.server import (
        RefusalBudget,
        authenticate_request,
        error_response,
        success_response,
        unknown_attributes_response,
    )
    from edgeice.stun.table import TransactionTable
    from edgeice.stun.transaction import (
        SERVER_ERROR_RETRIES,
        Due,
        FailureReason,
        Outcome,
        RetransmissionPolicy,
        Transaction,
        TransactionFailed,
        TransactionRejected,
        TransactionSucceeded,
        TransactionTimers,
        new_transaction_id,
    )
    from edgeice.stun.uri import ServerUri, parse_uri
    from edgeice.stun.values import AddressErrorCode, ErrorCode, Icmp, PasswordAlgorithm, PasswordAlgorithmEntry
else:
    __getattr__ = names_of(
        __name__,
        attributes="Attribute",
        integrity="AuthenticationError Integrity long_term_key opaque_string userhash",
        message="AuthenticatedMessage Message MessageClass Method authenticate decode encode is_stun",
        rto="RtoCache",
        server="RefusalBudget authenticate_request error_response success_response unknown_attributes_response",
        table="TransactionTable",
        transaction="SERVER_ERROR_RETRIES Due FailureReason Outcome RetransmissionPolicy Transaction"
        " TransactionFailed TransactionRejected TransactionSucceeded TransactionTimers"
        " new_transaction_id",
        uri="ServerUri parse_uri",
        values="AddressErrorCode ErrorCode Icmp PasswordAlgorithm PasswordAlgorithmEntry",
    )

__all__ = [
    "SERVER_ERROR_RETRIES",
    "AddressErrorCode",
    "Attribute",
    "AuthenticatedMessage",
    "AuthenticationError",
    "Due",
    "ErrorCode",
    "FailureReason",
    "Icmp",
    "Integrity",
    "Message",
    "MessageClass",
    "Method",
    "Outcome",
    "PasswordAlgorithm",
    "PasswordAlgorithmEntry",
    "RefusalBudget",
    "RetransmissionPolicy",
    "RtoCache",
    "ServerUri",
    "Transaction",
    "TransactionFailed",
    "TransactionRejected",
    "TransactionSucceeded",
    "TransactionTable",
    "TransactionTimers",
    "authenticate",
    "authenticate_request",
    "decode",
    "encode",
    "error_response",
    "is_stun",
    "long_term_key",
    "new_transaction_id",
    "opaque_string",
    "parse_uri",
    "success_response",
    "unknown_attributes_response",
    "userhash",
]
