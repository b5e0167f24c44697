//! Compiles the GPU's kernels when the feature `cuda` is on. Other builds need no CUDA compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Every file below `dir` with this extension.
fn files(dir: &Path, extension: &str, all: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, extension, all)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            println!("cargo:rerun-if-changed={}", path.display());
            all.push(path);
        }
    }
    Ok(())
}

/// Compiles one source for `CUDA_COMPUTE_CAP`, if it is set, and for every GPU from compute capability 8.0 on.
fn compile(source: &Path, image: &Path, headers: &Path) -> io::Result<()> {
    let nvcc = env::var("NVCC").unwrap_or_else(|_| "nvcc".to_owned());
    let mut command = Command::new(&nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "-I"]).arg(headers);
    command.arg("-gencode=arch=compute_80,code=compute_80");
    if let Ok(capability) = env::var("CUDA_COMPUTE_CAP") {
        command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
    }
    let status = command.arg("-o").arg(image).arg(source).status();
    let status =
        status.map_err(|error| io::Error::other(format!("{nvcc}: {error} (the feature `cuda` needs CUDA's nvcc)")))?;
    if !status.success() {
        return Err(io::Error::other(format!("{nvcc} could not compile {}: {status}", source.display())));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("src");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    let (mut sources, mut headers) = (Vec::new(), Vec::new());
    files(&root, "cu", &mut sources)?;
    files(&root, "cuh", &mut headers)?;
    sources.sort();
    let images: Vec<PathBuf> = (0..sources.len()).map(|i| out.join(format!("kernels-{i}.fatbin"))).collect();
    // One thread for each source: nvcc itself uses one.
    std::thread::scope(|scope| {
        let jobs = sources
            .iter()
            .zip(&images)
            .map(|(source, image)| scope.spawn(|| compile(source, image, &root.join("cuda"))));
        let jobs: Vec<_> = jobs.collect();
        jobs.into_iter().try_for_each(|job| job.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
    })?;
    let included: String =
        images.iter().map(|image| format!("include_bytes!({:?}), ", image.display().to_string())).collect();
    fs::write(out.join("kernels.rs"), format!("/// The compiled kernels.\nstatic KERNELS: &[&[u8]] = &[{included}];\n"))
}
