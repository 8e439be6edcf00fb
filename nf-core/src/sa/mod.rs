//! Security associations: what an operator or IKE asks for, what the cores keep of it.

pub mod replay;
