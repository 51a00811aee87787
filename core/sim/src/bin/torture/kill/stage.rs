//! A database for some rounds, of a kind by chance.

use std::time::Duration;

use replicate::seal::{IdentityKind, generate_identity};
use replicate_sim::peers::Outcome;
use replicate_sim::servers::VersityGw;

use super::plan::Need;
use crate::Torture;
use crate::actor::Writing;
use crate::chain::Shape;
use crate::ground::{Ground, on_file, on_s3, option};

/// Rounds after which everything begins anew, with another kind of database and replica.
const WEAR: u64 = 20;
/// Bytes from which an image goes in parts, and some more.
const PARTS: u64 = 12 << 20;

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) ground: Ground,
    pub(super) rounds: u64,
    /// Its image goes to an S3 server in parts.
    parts: bool,
}

impl Stage {
    pub(super) fn raise(torture: &mut Torture, number: u64, server: &VersityGw, need: Need) -> Outcome<Self> {
        let folder = torture.place(&format!("ground-{number}"))?;
        let rng = &mut torture.rng;
        let parts = need == Need::Parts;
        let replica = match parts || rng.percent(40) {
            true => {
                server.create_bucket("bucket");
                on_s3(&server.endpoint(), "bucket", &format!("ground-{number}"))
            }
            false => on_file(&folder.join("replica")),
        };
        let shape = Shape {
            page_size: if parts { 4096 } else { rng.pick(&[512, 1024, 4096, 4096, 4096, 8192, 65536]) },
            shrinks: rng.percent(25),
            filler: if parts { PARTS } else { rng.pick(&[0, 0, 300_000, 2_000_000]) },
        };
        let mut ground = Ground::create(&folder, replica, shape)?
            .with("sync_interval", rng.pick(&["10ms", "10ms", "50ms", "200ms"]))
            .with("checkpoint_pages", rng.pick(&["64", "64", "300", "1000"]))
            .with("page_encoding", rng.pick(&["frame", "block"]));
        ground.autocheckpoint = rng.pick(&[0, 0, 60, 1000]);
        if rng.percent(15) {
            let keys = generate_identity(IdentityKind::X25519).map_err(|e| e.to_string())?;
            ground = ground.with("age_recipient", &keys.recipient);
            ground.opening = vec![option("age_identity", keys.identity.as_str())];
        }
        Ok(Self { ground, rounds: 0, parts })
    }

    pub(super) fn is_worn(&self) -> bool {
        self.rounds >= if self.parts { 4 } else { WEAR }
    }

    pub(super) fn fits(&self, need: Need) -> bool {
        need != Need::Parts || self.parts
    }

    /// The writers of a round.
    pub(super) fn writers(&self, need: Need) -> Vec<Writing> {
        let one = |id| self.ground.writing(id);
        match need {
            // So fast and so much that the engine must hold them to turn the WAL.
            Need::Flood => [1, 2]
                .map(|id| Writing { pause: Duration::ZERO, row: 40_000, autocheckpoint: 0, checkpoints: 0, ..one(id) })
                .to_vec(),
            _ => vec![one(1), Writing { pause: Duration::from_micros(300), ..one(2) }],
        }
    }
}
