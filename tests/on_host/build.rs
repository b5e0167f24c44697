//! Compiles every kernel below `src/` for the CPU. `POLYRANK_SANITIZE=address` adds that sanitizer; undefined behaviour always traps.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn kernels(dir: &Path, all: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            kernels(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            println!("cargo:rerun-if-changed={}", path.display());
            all.push(path);
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let source = fs::canonicalize(here.join("../../src"))?;
    let mut all = Vec::new();
    kernels(&source, &mut all)?;
    all.sort();
    // One unit, so that the linker keeps the objects that register kernels.
    let includes = all.iter().filter(|path| path.extension().is_some_and(|extension| extension == "cu"));
    let includes: String = includes.map(|path| format!("#include \"{}\"\n", path.display())).collect();
    let unit = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?).join("kernels.cpp");
    let run = "extern \"C\" int polyrank_launch(const char* name, const unsigned (*grid)[3], unsigned threads, size_t bytes, \
               const void* params) { return on_host::launch(name, *grid, threads, bytes, params); }\n";
    fs::write(&unit, format!("#include \"kernel.cuh\"\n{includes}{run}"))?;
    for path in [here.join("on_host.h"), here.join("build.rs")] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=POLYRANK_SANITIZE");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(true).include(&here).include(source.join("cuda")).file(&unit);
    build.flag("-Wno-unknown-pragmas").flag("-Wno-attributes").flag("-Wno-unused-parameter");
    build.flag("-fsanitize=undefined").flag("-fsanitize-undefined-trap-on-error");
    if let Ok(sanitizer) = env::var("POLYRANK_SANITIZE") {
        build.flag(format!("-fsanitize={sanitizer}"));
        if sanitizer == "address" {
            println!("cargo:rustc-link-lib=dylib=asan");
        }
    }
    build.compile("polyrank_on_host");
    Ok(())
}
