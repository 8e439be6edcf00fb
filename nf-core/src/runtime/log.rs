//! Where logs and messages go.

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::Error;
use crate::config::Notify;
use crate::notify::{FanOut, Stderr, Tracing};

/// The environment variable that sets what is logged, such as `NF_LOG=debug`.
const FILTER: &str = "NF_LOG";
/// Messages about invalid SPIs go to stderr as bare lines, not as logs.
const MESSAGES: &str = "nf_core::inv_spi";

/// Sets up logging to stderr, and to the journal if it is configured. Only the first call of a process has an effect.
pub(super) fn init(notify: &Notify) -> Result<(), Error> {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_filter(filter)
        .with_filter(filter_fn(|metadata| metadata.target() != MESSAGES));
    let journal = match notify.journald.then(tracing_journald::layer).transpose() {
        Ok(journal) => journal.map(|layer| layer.with_syslog_identifier("nf-core".to_owned())),
        Err(error) => {
            let problem = format!("the systemd journal can't be reached: {error}; set [notify] journald = false");
            return Err(Error::Unusable(problem));
        }
    };
    // A second initialisation, as in tests, leaves the first in place.
    let _ = tracing_subscriber::registry().with(stderr).with(journal).try_init();
    Ok(())
}

/// Where messages about invalid SPIs go.
pub(super) fn sinks(notify: &Notify) -> FanOut {
    let mut sinks = FanOut::default();
    sinks.push(Box::new(Stderr));
    sinks.push(Box::new(Tracing));
    sinks.set_syslog(notify.syslog.clone());
    sinks
}
