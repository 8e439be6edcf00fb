//! What the control thread answers.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::audit::{Audit, Outcome};
use super::controller::{Bind, ControlError, Controller, InstalledSa, Reloaded, StoredReservation, StoredSa};
use super::proto::{BindingReport, InstanceReport, PluginKindReport, PluginReport, PortReport, Request, Response};
use super::proto::{Reserved, SaReport, Status, VERSION};
use super::server::{Handler, Reply};
use crate::config::Config;
use crate::plugin::PluginKind;
use crate::sa::larval::Reservation;
use crate::sa::spec::{FieldError, SelectorSpec};
use crate::types::Nanos;

/// What only the runtime knows of the daemon.
pub trait Platform {
    /// DPDK's version.
    fn dpdk_version(&self) -> String;
    /// The ports.
    fn ports(&self) -> Vec<PortReport>;
}

/// The control thread's state with what it runs on.
pub struct Daemon<P> {
    /// The state.
    pub controller: Controller,
    /// What it runs on.
    pub platform: P,
    /// The control socket's record of changes.
    pub audit: Arc<Audit>,
    /// The configuration that was applied last.
    pub file: ConfigFile,
}

/// A configuration with its file, to be read again.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// What was in it.
    pub config: Config,
}

impl<P: Platform> Handler for Daemon<P> {
    fn handle(&mut self, request: Request) -> Reply {
        let controller = &mut self.controller;
        let response = match request {
            Request::Subscribe { kinds } => {
                let (subscribed, events) = controller.subscribe(kinds);
                return Reply::Events(subscribed, events);
            }
            Request::Status {} => Response::ok(self.status()),
            Request::Counters {} => Response::ok(controller.counters().report()),
            Request::CountersClear {} => {
                tracing::info!("counters cleared");
                Response::ok(controller.clear_counters().report())
            }
            Request::CoreCounters {} => {
                Response::ok(controller.core_counters().map(|core| core.report()).collect::<Vec<_>>())
            }
            Request::Runtime {} => Response::ok(controller.runtime().collect::<Vec<_>>()),
            // Whoever may use the socket need not be one who may read every file that this process can.
            Request::SaAdd { sa } if sa.key_file.is_some() => {
                Response::Error("key_file: isn't taken over the socket; send `key`, as nf-ctl does".to_owned())
            }
            Request::SaAdd { sa } => match sa.validate() {
                Ok(params) => {
                    let key = params.key();
                    done(controller.add_sa(params).inspect(|()| {
                        tracing::info!(spi = %key.spi, src = %key.src, dst = %key.dst, "SA added");
                    }))
                }
                Err(error) => Response::Error(error.to_string()),
            },
            Request::SaDel { sa } => done(controller.delete_sa(sa.spi, sa.dst, sa.src).map(|key| {
                tracing::info!(spi = %key.spi, src = %key.src, dst = %key.dst, "SA deleted");
            })),
            Request::SaReserve { dst, src, spi, lifetime_s } => {
                done(controller.reserve(dst, src, spi, lifetime_s).map(|spi| Reserved { spi }))
            }
            Request::SaRelease { sa } => done(controller.release(sa.spi, sa.dst, sa.src)),
            Request::SaList {} => {
                let now = controller.now();
                let larval = controller.reservations().map(|reservation| report_larval(reservation, now));
                let mut list: Vec<SaReport> = controller.sas().map(|sa| report(sa, now)).chain(larval).collect();
                list.sort_by_key(|sa| (sa.spi, sa.dst, sa.src));
                Response::ok(list)
            }
            Request::SaShow { sa } => {
                let now = controller.now();
                let found = controller.find_sa(sa.spi, sa.dst, sa.src).map(|sa| report(sa, now));
                let larval = || controller.find_reservation(sa.spi, sa.dst, sa.src).ok();
                match (found, larval()) {
                    (Err(ControlError::NoSuchSa { .. }), Some(larval)) => Response::ok(report_larval(larval, now)),
                    (found, _) => done(found),
                }
            }
            Request::PluginList {} => Response::ok(plugins(controller)),
            Request::PluginBind { plugin, instance, gate, filter, priority, settings } => {
                let checked = gate.parse().map_err(|error| FieldError::new("gate", error));
                match checked.and_then(|gate| Ok((gate, filter.validate()?))) {
                    Ok((gate, filter)) => done(
                        controller
                            .bind(Bind {
                                plugin: &plugin,
                                instance: &instance,
                                gate,
                                filter,
                                priority,
                                settings: &settings,
                            })
                            .inspect(|()| {
                                tracing::info!(plugin, instance, %gate, priority, "plugin bound");
                            }),
                    ),
                    Err(error) => Response::Error(error.to_string()),
                }
            }
            Request::PluginUnbind { instance, gate } => match gate.map(|gate| gate.parse()).transpose() {
                Ok(gate) => done(controller.unbind(&instance, gate).inspect(|()| {
                    tracing::info!(instance, ?gate, "plugin unbound");
                })),
                Err(error) => Response::Error(error.to_string()),
            },
            Request::RecordedPackets {} => Response::ok(controller.recorded()),
            Request::RecoveryFailed { peer, src, spi, reason } => {
                controller.recovery_failed(peer, src, spi, reason);
                Response::ok(())
            }
            Request::EventList {} => Response::ok(controller.hooks().report()),
            Request::EventHistory { limit } => Response::ok(controller.hooks().history(limit)),
            Request::EventTest { name } => match controller.hooks().test(&name, controller.now()) {
                Ok(started) => Response::ok(started),
                Err(error) => Response::Error(error.to_string()),
            },
            Request::Reload {} => match self.reload() {
                Ok(reloaded) => Response::ok(reloaded),
                Err(message) => Response::Error(message),
            },
            Request::Audit { limit } => Response::ok(self.audit.last(limit)),
            Request::InvalidSpi { limit } => Response::ok(controller.notifier().report(controller.now(), limit)),
        };
        response.into()
    }
}

impl<P: Platform> Daemon<P> {
    /// Reads the configuration file again, and takes over what has changed: all of it or nothing.
    fn reload(&mut self) -> Result<Reloaded, String> {
        let new = Config::load(&self.file.path).map_err(|error| format!("nothing was changed: {error}"))?;
        let reloaded = self.controller.reload(&self.file.config, &new);
        // A core that hangs has its commands all the same: what it applies later is the new configuration.
        if matches!(reloaded, Ok(_) | Err(ControlError::CoreStuck { .. })) {
            self.file.config = new;
        }
        let reloaded = reloaded.map_err(|error| error.to_string())?;
        tracing::info!(file = %self.file.path.display(), ?reloaded, "configuration reloaded");
        Ok(reloaded)
    }

    /// As the request `reload`, by SIGHUP: the outcome is in the log and in the record of changes.
    pub fn reload_by_signal(&mut self) {
        let (result, error) = match self.reload() {
            Ok(_) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error)),
        };
        if let Some(error) = &error {
            tracing::error!("reload by SIGHUP: {error}");
        }
        self.audit.note(None, "reload by SIGHUP".to_owned(), result, error);
    }

    fn status(&self) -> Status {
        Status {
            protocol: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dpdk: self.platform.dpdk_version(),
            pid: std::process::id(),
            uptime_s: self.controller.now().0 / Nanos::SECOND,
            cores: self.controller.core_counters().count(),
            engine: self.controller.engine_name().to_owned(),
            sas: self.controller.sas().len(),
            ports: self.platform.ports(),
        }
    }
}

fn done<T: Serialize>(result: Result<T, ControlError>) -> Response {
    match result {
        Ok(content) => Response::ok(content),
        Err(error) => Response::Error(error.to_string()),
    }
}

fn report(stored: &StoredSa, now: Nanos) -> SaReport {
    let StoredSa { sa, params, peer_at, .. } = stored;
    let text = |list: &[crate::policy::Selector]| list.iter().map(ToString::to_string).collect();
    SaReport {
        spi: params.spi,
        direction: params.direction.to_string(),
        src: Some(params.src),
        dst: params.dst,
        peer: params.peer.clone(),
        source: sa.is_used().then_some(*peer_at),
        destination: matches!(sa, InstalledSa::Out(_)).then_some(*peer_at),
        path_mtu: match sa {
            InstalledSa::Out(sa) => sa.path_mtu(now),
            InstalledSa::In(_) => None,
        },
        mode: params.mode.to_string(),
        encap: params.encap.to_string(),
        transform: params.transform.name(),
        esn: params.transform.esn(),
        replay_window: params.replay_window.get(),
        selectors: SelectorSpec { src: text(&params.selectors.src), dst: text(&params.selectors.dst) },
        state: if sa.phase().get().is_some() { "dying" } else { "mature" }.to_owned(),
        lifetime: params.lifetime,
        age_s: stored.age(now) / Nanos::SECOND,
        highest_seq: sa.highest().map(|seq| seq.0),
        totals: sa.totals(),
    }
}

fn report_larval(stored: &StoredReservation, now: Nanos) -> SaReport {
    let StoredReservation { reservation: Reservation { spi, dst, src, .. }, made, .. } = *stored;
    SaReport::larval(spi, src, dst, now.since(made) / Nanos::SECOND)
}

fn plugins(controller: &Controller) -> PluginReport {
    let gates = |kind: &dyn PluginKind| kind.gates().iter().map(ToString::to_string).collect();
    PluginReport {
        plugins: controller
            .registry()
            .kinds()
            .map(|kind| PluginKindReport {
                name: kind.name().to_owned(),
                about: kind.about().to_owned(),
                gates: gates(kind),
            })
            .collect(),
        instances: controller
            .instances()
            .map(|(name, stored)| InstanceReport {
                instance: name.to_owned(),
                plugin: stored.plugin.to_owned(),
                bindings: stored
                    .bindings
                    .iter()
                    .map(|binding| BindingReport {
                        gate: binding.gate.to_string(),
                        priority: binding.priority,
                        filter: binding.filter.to_string(),
                    })
                    .collect(),
                status: stored.status(),
            })
            .collect(),
    }
}
