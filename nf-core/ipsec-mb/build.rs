//! Binds the few names of libipsec-mb that this crate uses, and links it.

use std::env;
use std::path::PathBuf;
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-lib=IPSec_MB");
    let bindings = bindgen::Builder::default()
        .header_contents("ipsec_mb.h", "#include <intel-ipsec-mb.h>")
        .allowlist_function("(alloc|free)_mb_mgr|init_mb_mgr_(auto|sse)|imb_get_mb_mgr_size")
        .allowlist_type("gcm_key_data|gcm_context_data|IMB_(CIPHER_MODE|CIPHER_DIRECTION|HASH_ALG|KEY_SIZE_BYTES)")
        .derive_default(false)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false)
        .generate();
    let written = bindings.map_err(|error| error.to_string()).and_then(|bindings| {
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
        bindings.write_to_file(out.join("sys.rs")).map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        println!("cargo::error=libipsec-mb is needed: apt-get install libipsec-mb-dev libclang-dev ({error})");
        exit(1);
    }
}
