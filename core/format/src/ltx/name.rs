//! The name of an LTX file says which transactions it covers, and nothing else counts as one.

use crate::{Txid, TxidRange};

/// Bytes of every name: two ids of 16 digits, a dash and the ending.
const NAME_LEN: usize = 16 + 1 + 16 + ENDING.len();
const ENDING: &str = ".ltx";

/// `<min>-<max>.ltx`, 16 lower-case hex digits each. The order of names is the order of ranges.
#[must_use]
pub fn ltx_file_name(txids: TxidRange) -> String {
    format!("{txids}{ENDING}")
}

/// The range in a name made by [`ltx_file_name`]. `None` for anything else, unfinished files included.
#[must_use]
pub fn parse_ltx_file_name(name: &str) -> Option<TxidRange> {
    if name.len() != NAME_LEN {
        return None;
    }
    let (min, max) = name.strip_suffix(ENDING)?.split_once('-')?;
    TxidRange::new(min.parse::<Txid>().ok()?, max.parse::<Txid>().ok()?)
}

/// An LTX file's name, for those who keep names as values.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileName(pub TxidRange);

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{ENDING}", self.0)
    }
}

impl std::str::FromStr for FileName {
    type Err = crate::FormatError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        parse_ltx_file_name(name)
            .map(Self)
            .ok_or_else(|| crate::FormatError::invalid("ltx file name", 0, "<min>-<max>.ltx", format!("{name:?}")))
    }
}
