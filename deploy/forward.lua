-- What the archive receives goes on to the node; its own results come back as other kinds and stay.
function OnStoredInstance(instance, tags, metadata, origin)
  if tags['Modality'] == 'DX' or tags['Modality'] == 'CR' then
    SendToModality(instance, 'agcxr')
  end
end
