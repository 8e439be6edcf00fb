//! Plugins by name, and what the control thread holds of an instance.

use serde_json::Value;

use super::{Gate, Plugin};
use crate::capture::RecordedPacket;
use crate::types::Nanos;

/// A plugin: code that makes instances of itself. Registered once, by name.
pub trait PluginKind: Send + Sync {
    /// The name in configuration and on the command line.
    fn name(&self) -> &'static str;

    /// One line for `nf-ctl plugin list`.
    fn about(&self) -> &'static str;

    /// The gates at which its instances may be bound.
    fn gates(&self) -> &'static [Gate];

    /// Makes an instance, with a part for each of `cores` cores. `settings` is the table that the operator wrote, or
    /// null; an error names the setting, what is wrong with it and what would be right.
    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError>;
}

/// An instance as its plugin made it.
pub struct Instance {
    /// A part for each core, in the order of the cores.
    pub cores: Vec<Box<dyn Plugin>>,
    /// The part that stays with the control thread.
    pub control: Box<dyn PluginControl>,
}

/// The part of an instance that runs on the control thread: it may allocate, write files and make system calls.
pub trait PluginControl: Send {
    /// Called some ten times a second: take what the cores have left, write it away.
    fn poll(&mut self, _now: Nanos) {}

    /// What `nf-ctl plugin list` shows of the instance: settings and counts.
    fn status(&self) -> Value {
        Value::Null
    }

    /// The packets that the instance keeps in memory, oldest first.
    fn recorded(&self) -> Vec<RecordedPacket> {
        Vec::new()
    }
}

/// An instance without anything to do on the control thread.
impl PluginControl for () {}

/// A plugin that can't be made or bound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PluginError {
    /// No plugin is registered under that name.
    #[error("there is no plugin `{name}`; this build has: {known}")]
    UnknownPlugin {
        /// What was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The plugin refuses its settings.
    #[error("setting `{setting}`: {problem}")]
    Setting {
        /// The setting's name.
        setting: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The plugin can't work at that gate.
    #[error("plugin `{plugin}` can't be bound to the gate {gate}; it can be bound to: {gates}")]
    WrongGate {
        /// The plugin.
        plugin: &'static str,
        /// The gate.
        gate: Gate,
        /// The gates that it can be bound to.
        gates: String,
    },
}

/// The plugins of this build.
pub struct Registry {
    kinds: Vec<Box<dyn PluginKind>>,
}

impl Registry {
    /// The plugins that nf-core brings along.
    pub fn builtin() -> Registry {
        Registry {
            kinds: vec![
                Box::new(crate::decap::DecapPlugin),
                Box::new(crate::encap::EncapPlugin),
                Box::new(crate::capture::CapturePlugin),
            ],
        }
    }

    /// Adds a plugin; it replaces one of the same name.
    pub fn register(&mut self, kind: Box<dyn PluginKind>) {
        self.kinds.retain(|known| known.name() != kind.name());
        self.kinds.push(kind);
    }

    /// All plugins.
    pub fn kinds(&self) -> impl Iterator<Item = &dyn PluginKind> {
        self.kinds.iter().map(|kind| &**kind)
    }

    /// The plugin of that name.
    pub fn get(&self, name: &str) -> Result<&dyn PluginKind, PluginError> {
        self.kinds().find(|kind| kind.name() == name).ok_or_else(|| PluginError::UnknownPlugin {
            name: name.to_owned(),
            known: self.kinds().map(PluginKind::name).collect::<Vec<_>>().join(", "),
        })
    }
}
