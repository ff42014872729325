//! The private runtime: a few threads that wait for sockets on behalf of all callers.

use std::future::Future;
use std::sync::{Mutex, PoisonError, mpsc};

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle, Runtime as Tokio};

use super::error::RegistryError;

/// Sockets are waited for, TLS is decrypted: two threads do that at any speed a network has.
const THREADS: usize = 2;

/// A runtime that is started when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Runtime(Mutex<Option<Tokio>>);

impl Runtime {
    /// Runs a future to its end and waits for that. All of it runs on the runtime's threads.
    pub(super) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(async move {
            // The receiver waits below.
            drop(done.send(future.await));
        })?;
        // A task that panicked has dropped the sender.
        result.recv().map_err(|_| RegistryError::SetUp("a request panicked".to_owned()))
    }

    /// Starts a future.
    pub(super) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), RegistryError> {
        self.handle()?.spawn(future);
        Ok(())
    }

    fn handle(&self) -> Result<Handle, RegistryError> {
        let mut runtime = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let started = start().map_err(RegistryError::SetUp)?;
        let handle = started.handle().clone();
        *runtime = Some(started);
        Ok(handle)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let runtime = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            // Nobody waits for what it still does.
            runtime.shutdown_background();
        }
    }
}

fn start() -> Result<Tokio, String> {
    // Another part of the program may have chosen already; any provider will do.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Signals are for the threads that wait for them: the runtime's threads, and those that they
    // start, take none.
    let mut before = SigSet::empty();
    let blocked = |error: nix::Error| error.to_string();
    nix::sys::signal::pthread_sigmask(
        SigmaskHow::SIG_BLOCK,
        Some(&SigSet::all()),
        Some(&mut before),
    )
    .map_err(blocked)?;
    let started = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(8)
        .thread_name("registry")
        .enable_io()
        .enable_time()
        .build();
    before.thread_set_mask().map_err(blocked)?;
    started.map_err(|error| error.to_string())
}
