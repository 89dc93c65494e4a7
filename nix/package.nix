# The package, for callPackage.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:
rustPlatform.buildRustPackage {
  pname = "deaddrop";
  inherit ((lib.importTOML ../Cargo.toml).workspace.package) version;
  src = lib.fileset.toSource {
    root = ../.;
    # The tests too: cargo wants each target that Cargo.toml names.
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../crates
      ../src
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  # Cargo.toml's profile for binaries that are given to others.
  buildType = "dist";
  # They want root, loop devices and many programs: scripts/test.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    $out/bin/deaddrop man man
    installManPage man/*.1
    for shell in bash fish zsh; do
      $out/bin/deaddrop completions $shell > deaddrop.$shell
    done
    installShellCompletion deaddrop.{bash,fish,zsh}
    mkdir -p $out/share/nushell/vendor/autoload
    $out/bin/deaddrop completions nushell > $out/share/nushell/vendor/autoload/deaddrop.nu
  '';

  meta = {
    description = "Puts secrets into disk images offline, and rotates them on running nodes";
    homepage = "https://github.com/deaddrop/deaddrop";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "deaddrop";
    platforms = lib.platforms.linux;
  };
}
