//! Key pairs of sealed replicas.

use pyo3::prelude::*;

use crate::failure::guarded;

/// A new key pair: private, public.
#[pyfunction]
pub(crate) fn generate_identity(py: Python<'_>, kind: &str) -> PyResult<(String, String)> {
    guarded(py, || {
        let keys = replicate::seal::generate_identity(kind.parse()?)?;
        Ok((keys.identity.to_string(), keys.recipient.clone()))
    })
}

/// The public keys of private ones.
#[pyfunction]
pub(crate) fn recipient_of(py: Python<'_>, identities: &str) -> PyResult<Vec<String>> {
    guarded(py, || Ok(replicate::seal::recipient_of(identities)?))
}
