//! What a run shares among all its templates: limits and what is left of them, chance, and time.

use std::cell::{Cell, RefCell};

use sha2::{Digest as _, Sha256};

use super::time::Time;
use crate::template::{BYTES_A_STEP, Limits, Stop};

/// After so many steps it is asked whether to go on.
const STEPS_AT_ONCE: u64 = 10_000;

/// Blocks and pipelines within one another in all templates that are running: what the stack holds.
const MAX_NESTING: usize = 30_000;

pub(crate) struct Host {
    pub(crate) limits: Limits,
    pub(crate) now: Time,
    stop: Stop,
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<usize>,
    nesting: Cell<usize>,
    random: RefCell<Random>,
}

impl Host {
    pub(crate) fn new(limits: Limits, now: Time, seed: [u8; 32], stop: Stop) -> Host {
        Host {
            limits,
            now,
            stop,
            steps: Cell::new(0),
            bytes: Cell::new(0),
            depth: Cell::new(0),
            nesting: Cell::new(0),
            random: RefCell::new(Random { seed, turn: 0, left: Vec::new() }),
        }
    }

    pub(crate) fn step(&self) -> Result<(), String> {
        self.steps(1)
    }

    /// Counts what takes as long as so many steps.
    pub(crate) fn steps(&self, count: usize) -> Result<(), String> {
        let before = self.steps.get();
        let after = before.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.steps.set(after);
        if after > self.limits.steps {
            return Err(format!("the template takes more than {} steps", self.limits.steps));
        }
        if before / STEPS_AT_ONCE != after / STEPS_AT_ONCE && self.stop.is_wanted() {
            return Err("rendering was stopped".into());
        }
        Ok(())
    }

    /// Counts the time that a function takes to read so many bytes.
    pub(crate) fn reads(&self, bytes: usize) -> Result<(), String> {
        self.steps(bytes / BYTES_A_STEP)
    }

    /// Counts what was made.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), String> {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        if self.bytes.get() > self.limits.bytes {
            return Err(format!("the template makes more than {} bytes", self.limits.bytes));
        }
        Ok(())
    }

    pub(crate) fn enter(&self) -> Result<(), String> {
        if self.depth.get() >= self.limits.depth {
            let depth = self.limits.depth;
            return Err(format!("more than {depth} templates within one another"));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    pub(crate) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    /// Goes into a block or a pipeline; an error ends the run, so that only success comes back.
    pub(crate) fn nest(&self) -> Result<(), String> {
        self.nesting.set(self.nesting.get() + 1);
        if self.nesting.get() > MAX_NESTING {
            return Err(format!("more than {MAX_NESTING} blocks within one another"));
        }
        Ok(())
    }

    pub(crate) fn unnest(&self) {
        self.nesting.set(self.nesting.get() - 1);
    }

    pub(crate) fn random_bytes(&self, count: usize) -> Vec<u8> {
        self.random.borrow_mut().bytes(count)
    }

    /// An even choice below `limit`, which is not zero.
    pub(crate) fn random_below(&self, limit: u64) -> u64 {
        // What is above the last whole multiple would be uneven.
        let fair = u64::MAX - u64::MAX % limit;
        loop {
            let bytes = self.random_bytes(8);
            let number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            if number < fair {
                return number % limit;
            }
        }
    }
}

/// Bytes that cannot be told from random ones without the seed.
struct Random {
    seed: [u8; 32],
    turn: u64,
    left: Vec<u8>,
}

impl Random {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.left.len() < count {
            let block = Sha256::new().chain_update(self.seed).chain_update(self.turn.to_le_bytes());
            self.left.extend_from_slice(&block.finalize());
            self.turn += 1;
        }
        self.left.drain(..count).collect()
    }
}
