# What scripts/site --record runs, line by line, beside base.img.zst (a small image) and vault.json (an export).
deaddrop init --yes --vault bitwarden:vault.json
deaddrop check --values
deaddrop plan base.img.zst
sed -i '/apply_password/s/# //' secrets.yaml
deaddrop plan base.img.zst
deaddrop inject base.img.zst -o node1.img
deaddrop verify node1.img
