//! Security associations: what an operator or IKE asks for, what the cores keep of it.

pub mod inbound;
pub mod larval;
pub mod lifetime;
pub mod outbound;
pub mod path_mtu;
pub mod permit;
pub mod replay;
pub mod spec;
pub mod table;
