//! Requests to capture everything and store it, counted: each is made, then captured, then acknowledged by the store. Pure.

use std::collections::VecDeque;

use replicate_format::Txid;

/// How far the requests of one replicator have come.
#[derive(Debug, Default)]
pub(super) struct Requests {
    made: u64,
    /// Requests that a finished capture has answered but the store has not, and where that capture ended; each
    /// request counts with those before it.
    captured: VecDeque<(u64, Txid)>,
    /// The last request whose capture the store has acknowledged.
    arrived: u64,
    /// How often captures were taken back.
    era: u64,
}

/// The requests up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// The last of them.
    pub(super) last: u64,
    era: u64,
}

impl Requests {
    /// One more; its number.
    pub(super) fn make(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Those there are, for a capture that begins now.
    pub(super) fn now(&self) -> Asked {
        Asked { last: self.made, era: self.era }
    }

    fn last_captured(&self) -> u64 {
        self.captured.back().map_or(self.arrived, |captured| captured.0)
    }

    /// Whether one waits for a capture.
    pub(super) fn is_uncaptured(&self) -> bool {
        self.made > self.last_captured()
    }

    /// Everything committed when these were made is captured, up to `txid`; the store has `remote`. A capture from
    /// before everything was taken back counts for nothing.
    pub(super) fn captured(&mut self, asked: Asked, txid: Txid, remote: Txid) {
        if asked.era == self.era && asked.last > self.last_captured() {
            self.captured.push_back((asked.last, txid));
            self.acknowledged(remote);
        }
    }

    /// The store has this. Each request waits for its own capture, not for later ones: under load there is always a
    /// later one on its way.
    pub(super) fn acknowledged(&mut self, remote: Txid) {
        while let Some((request, _)) = self.captured.pop_front_if(|captured| captured.1 <= remote) {
            self.arrived = request;
        }
    }

    /// Another process has stored everything committed when these were made.
    pub(super) fn relayed(&mut self, asked: Asked) {
        self.arrived = self.arrived.max(asked.last);
    }

    /// What was captured and has not arrived is worth nothing for the store.
    pub(super) fn take_back(&mut self) {
        self.captured.clear();
        self.era += 1;
    }

    /// Whether the store has everything that was committed when this one was made.
    pub(super) fn has_arrived(&self, request: u64) -> bool {
        self.arrived >= request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_its_own_capture_and_not_for_those_of_later_ones() {
        let mut requests = Requests::default();
        let first = requests.make();
        requests.captured(requests.now(), Txid(1), Txid::ZERO);
        assert!(!requests.has_arrived(first));
        let second = requests.make();
        requests.captured(requests.now(), Txid(2), Txid::ZERO);
        requests.acknowledged(Txid(1));
        assert!(requests.has_arrived(first) && !requests.has_arrived(second));
        requests.acknowledged(Txid(2));
        assert!(requests.has_arrived(second) && !requests.is_uncaptured());
    }

    #[test]
    fn a_capture_that_was_taken_back_answers_nobody() {
        let mut requests = Requests::default();
        let request = requests.make();
        requests.captured(requests.now(), Txid(5), Txid::ZERO);
        let under_way = requests.now();
        requests.take_back();
        requests.captured(under_way, Txid(5), Txid::ZERO);
        requests.acknowledged(Txid(7));
        assert!(!requests.has_arrived(request) && requests.is_uncaptured());
        requests.captured(requests.now(), Txid(8), Txid(7));
        assert!(!requests.has_arrived(request));
        requests.acknowledged(Txid(8));
        assert!(requests.has_arrived(request));
    }
}
