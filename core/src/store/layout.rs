//! The only code that forms and reads object keys.
//!
//! Litestream has two layouts. S3 and OSS: four hex digits of the level, `0000/<min>-<max>.ltx`. Every other
//! store: `ltx/<level>/<min>-<max>.ltx`. A replica may have been copied from one kind of store to another,
//! so both are read everywhere; a store writes its own.

use replicate_format::{Level, TxidRange, ltx_file_name, parse_ltx_file_name};

use crate::blob::ObjectKey;
use crate::error::Result;

/// How keys are formed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// `0009/…`: S3 and OSS.
    Hex4,
    /// `ltx/9/…`: everything else.
    LtxDir,
}

impl Layout {
    /// Both, in no order.
    pub(crate) const ALL: [Self; 2] = [Self::Hex4, Self::LtxDir];

    /// The layout that Litestream uses on this kind of store.
    #[must_use]
    pub fn of_kind(kind: &str) -> Self {
        match kind {
            "s3" | "oss" => Self::Hex4,
            _ => Self::LtxDir,
        }
    }

    /// The prefix of a level, with its slash.
    #[must_use]
    pub fn prefix(self, level: Level) -> String {
        match self {
            Self::Hex4 => format!("{:04x}/", level.get()),
            Self::LtxDir => format!("ltx/{}/", level.get()),
        }
    }

    /// The key of a file.
    pub fn key(self, level: Level, txids: TxidRange) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}{}", self.prefix(level), ltx_file_name(txids)))
    }

    /// The range in a key of this level; `None` if the key is of another level, layout or program.
    #[must_use]
    pub fn parse(self, level: Level, key: &ObjectKey) -> Option<TxidRange> {
        parse_ltx_file_name(key.as_str().strip_prefix(&self.prefix(level))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicate_format::Txid;

    #[test]
    fn keys_are_litestreams() {
        let range = TxidRange::new(Txid(1), Txid(10)).expect("valid");
        let key = |layout: Layout| layout.key(Level::SNAPSHOT, range).expect("valid").to_string();
        assert_eq!(key(Layout::Hex4), "0009/0000000000000001-000000000000000a.ltx");
        assert_eq!(key(Layout::LtxDir), "ltx/9/0000000000000001-000000000000000a.ltx");
    }

    #[test]
    fn foreign_keys_are_not_ours() {
        for key in ["0009/x.ltx", "0000/0000000000000001-0000000000000001.ltx.tmp", "ltx/9/a", "lock.json"] {
            let key = ObjectKey::new(key).expect("valid");
            assert!(Layout::ALL.iter().all(|l| l.parse(Level::SNAPSHOT, &key).is_none()), "{key}");
        }
    }
}
